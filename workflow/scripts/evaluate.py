"""Rule evaluate: score the predictions of one run for one cell line."""

from pathlib import Path

from statetx.config import Evaluation
from statetx.evaluation.held_out.evaluate import evaluate_run
from statetx.stages.jobs import job, recorded
from statetx.stages.paths import raw_line
from statetx.stages.steps import Step

if __name__ == "__main__":
    with job(snakemake.log[0]), recorded(Step.from_job("evaluate", snakemake)):
        evaluate_run(
            Path(snakemake.input.store[0]).parent,
            Path(snakemake.input.plan),
            raw_line(snakemake.wildcards.cell_line),
            Path(snakemake.input.cells),
            Path(snakemake.input.reference[0]).parent,
            Evaluation.model_validate(snakemake.params.settings),
            Path(snakemake.output.scores).parent,
            snakemake.input.genes or None,
        )
