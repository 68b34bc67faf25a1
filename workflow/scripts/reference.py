"""Rule reference: compute the reference of a test line from its real cells, for all models."""

from pathlib import Path

from statetx.config import Evaluation
from statetx.evaluation.held_out.reference import reference
from statetx.stages.jobs import job, recorded
from statetx.stages.paths import raw_line
from statetx.stages.steps import Step

if __name__ == "__main__":
    with job(snakemake.log[0]), recorded(Step.from_job("reference", snakemake)):
        reference(
            Path(snakemake.input.store[0]).parent,
            Path(snakemake.input.plan),
            raw_line(snakemake.wildcards.cell_line),
            Evaluation.model_validate(snakemake.params.settings),
            Path(snakemake.output.floor).parent,
            snakemake.input.genes or None,
        )
