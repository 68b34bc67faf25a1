"""Rule train: fit one model on one split with one seed."""

from pathlib import Path

from pydantic import TypeAdapter

from statetx import stages
from statetx.config import Tracking
from statetx.config.sections import Model
from statetx.training.fit import fit

if __name__ == "__main__":
    with stages.job(snakemake.log[0]):
        wildcards, params = snakemake.wildcards, snakemake.params
        out = Path(snakemake.output.model)
        store = Path(snakemake.input.store[0]).parent
        made_from = stages.train_made_from(
            store, Path(snakemake.input.plan), params.settings, params.code
        )
        fit(
            store_dir=store,
            plan_path=Path(snakemake.input.plan),
            model=TypeAdapter(Model).validate_python(params.settings),
            seed=int(wildcards.seed),
            out=out,
            state_dir=stages.state_dir(
                wildcards.dataset, wildcards.split, wildcards.model, int(wildcards.seed), made_from
            ),
            checkpoints_dir=out.parent / "checkpoints",
            keep=["best", "last", *params.keep],
            tracking=Tracking.model_validate(snakemake.config.get("tracking", {})),
            provenance={**dict(wildcards.items()), **made_from},
            threads=snakemake.threads,
        )
