"""What a training is given, and what it gives back."""

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
    """What there is to learn, and from what.

    Attributes
    ----------
    store, plan
        Cells, and which conditions train and validate.
    plan_path
        Where the plan was read, for messages.
    vocabulary
        Control label, then the sorted training perturbations (or all that have features): ids are
        indices into it.
    model
        Section of the configuration.
    seed
        Seed of everything random.
    match_by_batch
        Levels of control matching: whether the batch must agree.
    batches
        Batches in the order of their ids, where the model learns of them.
    features, feature_names
        What the model is given for each label of the vocabulary instead of its id, float32
        [labels, features].
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
    """Where a training by gradient writes, what it keeps, and what it shows.

    Attributes
    ----------
    state
        Directory of what a later attempt resumes from; removed after success.
    checkpoints
        Directory of step checkpoints ``step=N.safetensors``.
    run
        Directory of the run: offline tracking lands in it.
    keep
        Checkpoints to return: ``best``, ``last``, ``step=N``.
    tracking
        Whether curves go to wandb too.
    progress
        Makes the callback that shows progress, given the last step. None: nothing is shown.
    """

    state: Path
    checkpoints: Path
    run: Path
    keep: tuple[str, ...] = ("best",)
    tracking: Tracking = field(default_factory=Tracking)
    progress: Callable[[int], lightning.Callback] | None = None


@dataclass(frozen=True)
class Trained:
    """What either way of fitting gives.

    Attributes
    ----------
    architecture
        What decides the shapes; goes into ``model.json``.
    checkpoints
        ``{name: {tensor: array}}``, ``best`` among them.
    chosen
        ``{name: {step, why, …}}`` for ``model.json``.
    metrics
        Text of ``metrics.csv``, or None.
    cell_set_len
        Cells per set, or None when cells do not see each other.
    packages
        Packages whose versions are worth recording.
    facts
        Further entries of ``model.json``, or other ones than usual.
    """

    architecture: dict[str, Any]
    checkpoints: dict[str, dict[str, np.ndarray]]
    chosen: dict[str, dict[str, Any]]
    metrics: str | None = None
    cell_set_len: int | None = None
    packages: tuple[str, ...] = field(default=("statetx", "numpy", "safetensors"))
    facts: dict[str, Any] = field(default_factory=dict)
