"""Rule verdict: does a model beat the best baseline?"""

from pathlib import Path

from statetx import stages
from statetx.config import Evaluation
from statetx.evaluation.verdict import verdict

if __name__ == "__main__":
    with stages.job(snakemake.log[0]):
        wildcards = snakemake.wildcards
        checkpoint = snakemake.params.checkpoint
        scores, references = stages.judged(wildcards.dataset, snakemake.params.runs, checkpoint)
        verdict(
            scores,
            references,
            {
                "experiment": wildcards.experiment,
                "dataset": wildcards.dataset,
                "checkpoint": checkpoint,
                "code": snakemake.params.code,
            },
            Evaluation.model_validate(snakemake.params.settings),
            Path(snakemake.output.verdict).parent,
        )
