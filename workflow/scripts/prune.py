"""Rule prune: list or delete the step checkpoints that are not needed."""

from pathlib import Path

from statetx.maintenance.prune import prune, text
from statetx.stages.jobs import job, recorded
from statetx.stages.steps import Step

if __name__ == "__main__":
    with job(snakemake.log[0]), recorded(Step.from_job("prune", snakemake)):
        manifest = Path(snakemake.output.manifest)
        listed = prune(
            manifest.parent, snakemake.params.keep, snakemake.params.delete, out=manifest
        )
        print(text(listed))
