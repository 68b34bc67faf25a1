"""Rule pack: source files into the sorted, memory-mapped store."""

from pathlib import Path

from statetx.config import Dataset
from statetx.data.pack import pack
from statetx.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0]):
        files = [Path(path) for path in snakemake.input.cells]
        settings = Dataset.model_validate(
            {**snakemake.params.settings, "files": [str(f) for f in files]}
        )
        pack(files, settings, snakemake.params.dataset, Path(snakemake.output.manifest).parent)
