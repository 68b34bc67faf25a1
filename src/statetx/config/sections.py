"""Base class of all sections, and the small sections of a configuration.

Every key is explained in its ``description``. The JSON schema and the tables in
``config/README.md`` are generated from these descriptions.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
)

from statetx.core.errors import did_you_mean


def unit(name: str) -> dict[str, Any]:
    """Return the extra information of a field that states its unit.

    Parameters
    ----------
    name
        The unit, such as ``cells``.
    """
    return {"unit": name}


class Section(BaseModel):
    """Section of a configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def changed(self) -> dict[str, Any]:
        """Return the keys that differ from their default, as JSON values.

        Stages get these as parameters, so a key that a later version adds reruns nothing.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


def _checkpoint(name: str) -> str:
    if name not in ("best", "last") and not re.fullmatch(r"step=[1-9]\d*", name):
        raise ValueError(
            f"{name!r} is not a checkpoint; {did_you_mean(name, ['best', 'last', 'step=N'])}"
        )
    return name


Checkpoint = Annotated[str, AfterValidator(_checkpoint)]


class Experiment(Section):
    """Comparison of models on the same splits."""

    splits: list[str] = Field(
        min_length=1,
        description="names of splits, all of the same data set; the folds of a split are pooled",
    )
    models: list[str] = Field(min_length=1, description="names of models")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="training seeds; each model is trained once per seed"
    )


class Evaluation(Section):
    """Scoring of predictions."""

    profile: Literal["full", "minimal"] = Field(
        "full", description="columns of cell-eval that are written"
    )
    checkpoints: list[Checkpoint] = Field(
        ["best"],
        min_length=1,
        description="checkpoints to evaluate: `best`, `last` or `step=N`; the verdict uses the "
        "first",
    )
    max_cells: int = Field(
        1500,
        ge=2,
        description="largest number of cells per condition, for predicted and for real cells",
        json_schema_extra=unit("cells"),
    )
    seed: int = Field(
        0, description="random seed of subsampling, of the split halves and of the bootstrap"
    )
    n_bootstrap: int = Field(
        2000,
        ge=100,
        description="number of bootstrap draws per interval",
        json_schema_extra=unit("draws"),
    )


class Prune(Section):
    """Removal of step checkpoints."""

    keep: list[Checkpoint] = Field(
        ["best", "last"], description="checkpoints to keep: `best`, `last` or `step=N`"
    )
    mode: Literal["dry-run", "delete"] = Field(
        "dry-run",
        description="`dry-run` lists what would be deleted; `delete` deletes it",
    )


class Tracking(Section):
    """Logging of training curves to Weights & Biases, in addition to metrics.csv."""

    wandb: bool = Field(
        False, description="whether to log to Weights & Biases (needs the extra `wandb`)"
    )
    project: str = Field("statetx", description="wandb project")
    entity: str | None = Field(None, description="wandb entity")
    tags: list[str] = Field([], description="wandb tags")
    mode: Literal["online", "offline"] = Field(
        "online", description="`offline` stores the log on disk, to sync it later"
    )


class Report(Section):
    """HTML page of an experiment."""

    title: str | None = Field(None, description="title of the page; null: name of the experiment")
