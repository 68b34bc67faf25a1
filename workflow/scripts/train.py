"""Rule train: train one model on one split with one seed."""

from statetx.config import load
from statetx.stages import jobs
from statetx.stages.steps import Step

if __name__ == "__main__":
    with jobs.job(snakemake.log[0]), jobs.recorded(Step.from_job("train", snakemake)):
        wildcards = snakemake.wildcards
        jobs.train(
            load(dict(snakemake.config)),
            wildcards.dataset,
            wildcards.split,
            wildcards.model,
            int(wildcards.seed),
            snakemake.threads,
        )
