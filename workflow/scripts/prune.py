"""Rule prune: which step checkpoints nobody needs."""

from pathlib import Path

from statetx.jobs import job
from statetx.maintenance.prune import prune, text

if __name__ == "__main__":
    with job(snakemake.log[0]):
        manifest = Path(snakemake.output.manifest)
        found = prune(manifest.parent, snakemake.params.keep, snakemake.params.delete, out=manifest)
        print(text(found))
