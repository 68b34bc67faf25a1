"""Rule train: fit one model on one split with one seed."""

from statetx import jobs
from statetx.config import load

if __name__ == "__main__":
    with jobs.job(snakemake.log[0]):
        wildcards = snakemake.wildcards
        jobs.train(
            load(dict(snakemake.config)),
            wildcards.dataset,
            wildcards.split,
            wildcards.model,
            int(wildcards.seed),
            snakemake.threads,
        )
