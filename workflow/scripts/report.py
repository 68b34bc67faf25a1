"""Rule report: write the HTML page of an experiment, without computing new scores."""

from statetx.config import load
from statetx.stages import jobs
from statetx.stages.steps import Step

if __name__ == "__main__":
    with jobs.job(snakemake.log[0]), jobs.recorded(Step.from_job("report", snakemake)):
        jobs.report(load(dict(snakemake.config)), snakemake.wildcards.experiment)
