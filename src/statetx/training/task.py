"""Input and result of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from statetx.config import Tracking
from statetx.data.store.plan import Plan
from statetx.data.store.store import Store

if TYPE_CHECKING:
    import lightning


@dataclass(frozen=True)
class Task:
    """A training task: data, model settings and seed.

    Attributes
    ----------
    store, plan
        Cells, and the conditions that train and validate.
    plan_path
        Path of the plan, for messages.
    vocabulary
        Control label, then the sorted training perturbations (or all perturbations with features).
        Ids are indices into it.
    model
        Section of the configuration.
    seed
        Seed of all random numbers.
    match_by_batch
        Levels of control matching: whether the batch must agree.
    batches
        Batches in the order of their ids; None: the model does not use batches.
    features, feature_names
        Features of each label of the vocabulary, float32 [labels, features], and their names. The
        model gets them instead of the id. None: the model gets the id.
    """

    store: Store
    plan: Plan
    plan_path: Path
    vocabulary: list[str]
    model: Any
    seed: int
    match_by_batch: tuple[bool, ...] = (True, False)
    batches: tuple[str, ...] | None = None
    features: np.ndarray | None = None
    feature_names: list[str] | None = None


@dataclass(frozen=True)
class Workspace:
    """Directories of a training by gradient, the checkpoints it keeps, and its displays.

    Attributes
    ----------
    state
        Directory of the resume state; removed after success.
    checkpoints
        Directory of step checkpoints ``step=N.safetensors``.
    run
        Directory of the run; offline tracking writes to it.
    keep
        Checkpoints to return: ``best``, ``last``, ``step=N``.
    tracking
        Whether curves are also sent to wandb.
    progress
        Function of the last step that returns a callback to show progress. None: nothing is shown.
    """

    state: Path
    checkpoints: Path
    run: Path
    keep: tuple[str, ...] = ("best",)
    tracking: Tracking = field(default_factory=Tracking)
    progress: Callable[[int], lightning.Callback] | None = None


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes
    ----------
    architecture
        Settings that decide the shapes, for ``model.json``.
    checkpoints
        ``{name: {tensor: array}}``, with ``best``.
    chosen
        ``{name: {step, why, …}}`` for ``model.json``.
    metrics
        Text of ``metrics.csv``, or None.
    cell_set_len
        Cells per set; None: the model treats each cell separately.
    packages
        Packages whose versions are recorded.
    facts
        Entries of ``model.json`` that are added, or that replace the usual entries.
    """

    architecture: dict[str, Any]
    checkpoints: dict[str, dict[str, np.ndarray]]
    chosen: dict[str, dict[str, Any]]
    metrics: str | None = None
    cell_set_len: int | None = None
    packages: tuple[str, ...] = field(default=("statetx", "numpy", "safetensors"))
    facts: dict[str, Any] = field(default_factory=dict)
