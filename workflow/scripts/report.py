"""Rule report: one page per experiment. It only draws."""

from pathlib import Path

from statetx.reporting.page import RunFiles, page
from statetx.stages import job

if __name__ == "__main__":
    with job(snakemake.log[0]):
        runs = [
            RunFiles(split, model, seed, Path(path))
            for (split, model, _, seed), path in zip(
                snakemake.params.runs, snakemake.input.models, strict=True
            )
        ]
        page(
            Path(snakemake.input.verdict),
            {Path(path).parent.name: Path(path) for path in snakemake.input.plans},
            runs,
            Path(snakemake.input.manifest),
            Path(snakemake.output.page),
            snakemake.params.title,
        )
