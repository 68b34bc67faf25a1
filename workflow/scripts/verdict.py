"""Rule verdict: compare every model of an experiment with the best baseline."""

from statetx.config import load
from statetx.stages import jobs
from statetx.stages.steps import Step

if __name__ == "__main__":
    with jobs.job(snakemake.log[0]), jobs.recorded(Step.from_job("verdict", snakemake)):
        jobs.verdict(load(dict(snakemake.config)), snakemake.wildcards.experiment)
