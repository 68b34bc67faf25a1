"""Rule split: which condition trains, validates or tests."""

from pathlib import Path

from pydantic import TypeAdapter

from statetx.config.sections import Split
from statetx.splits.split import split
from statetx.stages import job

if __name__ == "__main__":
    with job(snakemake.log[0]):
        raw = {**snakemake.params.settings, "dataset": snakemake.wildcards.dataset}
        if snakemake.params.toml is not None:
            raw["toml"] = "given"
        report = split(
            Path(snakemake.input.manifest).parent,
            TypeAdapter(Split).validate_python(raw),
            snakemake.params.fold,
            snakemake.params.toml,
            Path(snakemake.output.plan).parent,
        )
        print(report.text())
