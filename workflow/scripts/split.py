"""Rule split: assign every condition to training, validation or test."""

from pathlib import Path

from statetx.config import load
from statetx.splits.split import split
from statetx.stages.jobs import job, recorded
from statetx.stages.steps import Step

if __name__ == "__main__":
    with job(snakemake.log[0]), recorded(Step.from_job("split", snakemake)):
        cfg = load(dict(snakemake.config))
        settings, _ = cfg.split(snakemake.wildcards.split)
        report = split(
            Path(snakemake.input.manifest).parent,
            settings,
            snakemake.params.fold,
            snakemake.params.toml,
            Path(snakemake.output.plan).parent,
            snakemake.params.known,
            cfg.one_hot(snakemake.wildcards.split),
        )
        print(report.text())
