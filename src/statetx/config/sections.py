"""The configuration: typed, explained, checked before anything runs.

Every key has its meaning in its ``description``; the JSON schema and the table in
``config/README.md`` are generated from here.
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
    return {"unit": name}


class Section(BaseModel):
    """A section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def changed(self) -> dict[str, Any]:
        """The keys that differ from their default, as JSON values.

        Stages get these as parameters: a key added later, with its default, reruns nothing.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


def _checkpoint(name: str) -> str:
    if name not in ("best", "last") and not re.fullmatch(r"step=[1-9]\d*", name):
        raise ValueError(
            f"{name!r} is no checkpoint; {did_you_mean(name, ['best', 'last', 'step=N'])}"
        )
    return name


Checkpoint = Annotated[str, AfterValidator(_checkpoint)]


class Experiment(Section):
    """What is compared with what."""

    splits: list[str] = Field(
        min_length=1, description="names of splits, all of one data set; folds are pooled"
    )
    models: list[str] = Field(min_length=1, description="names of models")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="one run per seed"
    )


class Evaluation(Section):
    """How predictions are scored."""

    profile: Literal["full", "minimal"] = Field(
        "full", description="which cell-eval columns are written"
    )
    checkpoints: list[Checkpoint] = Field(
        ["best"], min_length=1, description="best, last or step=N; the verdict judges the first"
    )
    max_cells: int = Field(
        1500,
        ge=2,
        description="largest number of cells per condition, both sides",
        json_schema_extra=unit("cells"),
    )
    seed: int = Field(
        0, description="seed of subsampling, of the split halves and of the bootstrap"
    )
    n_bootstrap: int = Field(
        2000,
        ge=100,
        description="bootstrap draws behind an interval",
        json_schema_extra=unit("draws"),
    )


class Prune(Section):
    """Which step checkpoints stay."""

    keep: list[Checkpoint] = Field(["best", "last"], description="best, last or step=N")
    mode: Literal["dry-run", "delete"] = Field("dry-run", description="delete only when asked to")


class Tracking(Section):
    """Where training curves go besides metrics.csv."""

    wandb: bool = Field(False, description="log to Weights & Biases (needs the extra `wandb`)")
    project: str = Field("statetx", description="wandb project")
    entity: str | None = Field(None, description="wandb entity")
    tags: list[str] = Field([], description="wandb tags")
    mode: Literal["online", "offline"] = Field("online", description="offline: sync later")


class Report(Section):
    """The page."""

    title: str | None = Field(None, description="title; null: the experiment's name")
