"""Rule simulate: simulate cells with known effects, one h5ad per cell line."""

from pathlib import Path

from statetx.config import Simulate
from statetx.data.simulate import simulate
from statetx.stages.jobs import job, recorded
from statetx.stages.steps import Step

if __name__ == "__main__":
    with job(snakemake.log[0]), recorded(Step.from_job("simulate", snakemake)):
        settings = Simulate.model_validate(snakemake.params.settings)
        simulate(settings, Path(snakemake.output.truth).parent)
