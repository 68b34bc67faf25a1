"""Rule prune: which step checkpoints nobody needs."""

from pathlib import Path

from statetx.maintenance.prune import prune
from statetx.stages import job

if __name__ == "__main__":
    with job(snakemake.log[0]):
        manifest = Path(snakemake.output.manifest)
        prune(manifest.parent, snakemake.params.keep, snakemake.params.delete, out=manifest)
