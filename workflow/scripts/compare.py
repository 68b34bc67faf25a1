"""Rule compare: check whether source files still contain the cells that were packed."""

from pathlib import Path

from statetx.config import load
from statetx.stages.jobs import job
from statetx.stages.packed_sources import compare_sources

if __name__ == "__main__":
    with job(snakemake.log[0]):
        cfg, out = load(dict(snakemake.config)), Path(snakemake.output.content)
        compare_sources(cfg, snakemake.params.dataset, out)
