"""Rule split: which condition trains, validates or tests."""

from pathlib import Path

from statetx.config import load
from statetx.splits.split import split
from statetx.stages import job

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
