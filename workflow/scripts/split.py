"""Rule split: which condition trains, validates or tests."""

from pathlib import Path

from statetx.config import load
from statetx.jobs import job
from statetx.splits.split import split

if __name__ == "__main__":
    with job(snakemake.log[0]):
        settings, _ = load(dict(snakemake.config)).split(snakemake.wildcards.split)
        report = split(
            Path(snakemake.input.manifest).parent,
            settings,
            snakemake.params.fold,
            snakemake.params.toml,
            Path(snakemake.output.plan).parent,
        )
        print(report.text())
