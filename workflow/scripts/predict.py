"""Rule predict: predict the held-out cells of one cell line."""

from pathlib import Path

from statetx.config import Evaluation
from statetx.inference.predict import predict
from statetx.stages.jobs import job, recorded
from statetx.stages.paths import raw_line
from statetx.stages.steps import Step

if __name__ == "__main__":
    with job(snakemake.log[0]), recorded(Step.from_job("predict", snakemake)):
        settings = Evaluation.model_validate(snakemake.params.settings)
        predict(
            Path(snakemake.input.model),
            Path(snakemake.input.store[0]).parent,
            Path(snakemake.input.plan),
            raw_line(snakemake.wildcards.cell_line),
            snakemake.wildcards.checkpoint,
            settings.max_cells,
            settings.seed,
            Path(snakemake.output.cells),
            genes=snakemake.input.genes or None,
            match_by_batch=snakemake.params.match,
        )
