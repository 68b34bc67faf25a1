"""Rule genes: select highly variable genes on the training cells of a split."""

from pathlib import Path

from statetx.data.store.genes import genes
from statetx.stages.jobs import job, recorded
from statetx.stages.steps import Step

if __name__ == "__main__":
    with job(snakemake.log[0]), recorded(Step.from_job("genes", snakemake)):
        store = Path(snakemake.input.store[0]).parent
        genes(store, snakemake.input.plan, int(snakemake.wildcards.n), snakemake.output.genes)
