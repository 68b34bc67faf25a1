"""The sets of a training: an endless stream of training batches, and the validation batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch

from statetx.data.sets.loader import SetBatch, SetLoader
from statetx.data.store.plan import Plan
from statetx.training.inputs.covariates import untrained_batches
from statetx.training.loop.lightning_module import Batch, PertSetsModule
from statetx.training.processes import Ranks, share
from statetx.training.task import Task

log = logging.getLogger("statetx.training")

VALIDATION_CELLS = 65_536
"""Largest number of validation cells, from sets over all conditions.

They stay in memory: 1 GB with 2,000 genes. 256 sets of 256 cells rank checkpoints as well as
thousands of sets.
"""

KEYS = ["line", "perturbation"]
VALIDATION_SEED = 0
"""Seed of the validation sets, the same for all seeds of models, so that losses are comparable."""


class Stream:
    """An endless stream of training batches, from the current step of the module.

    The batches of a step depend on (seed, step) only: the n-th batch of a training is batch
    n mod (batches per epoch) of epoch n div (batches per epoch). A resumed training therefore needs
    no state of the loader.

    Parameters
    ----------
    loader
        Loader of the training sets.
    module
        Module with the current step.
    """

    def __init__(self, loader: SetLoader, module: PertSetsModule) -> None:
        self.loader = loader
        self.module = module

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches; the current step is read when the first batch is requested."""
        batches = self.module.global_step * self.module.settings.accumulate
        epoch, first = divmod(batches, len(self.loader))
        while True:
            for batch in self.loader.epoch(epoch, first):
                yield as_batch(batch)
            epoch, first = epoch + 1, 0


def as_batch(batch: SetBatch) -> Batch:
    """Convert a batch of the loader to a batch of the module."""
    fields = (batch.control, batch.target, batch.perturbation, batch.line)
    return Batch(*fields, batch.mask, batch.expression, batch.batches)


def make_loader(
    task: Task,
    plan: Plan,
    role: str,
    seed: int,
    ranks: Ranks = Ranks(),  # noqa: B008 (immutable)
) -> SetLoader:
    """Return the loader of the sets of a role, with the settings of the model.

    Parameters
    ----------
    task
        Store, vocabulary and settings.
    plan
        The plan.
    role
        ``train`` or ``val``.
    seed
        Seed of the sets.
    ranks
        Ranks of the processes that train together.
    """
    model, training = task.model, role == "train"
    gpu = training and torch.cuda.is_available()
    # Validation sets are few, stay in memory, and are compared by means over their cells. They are
    # therefore full sets, on the CPU.
    plain = model.sets.model_copy(update={"short": "replace", "weights": "size"})
    return SetLoader(
        task.store,
        plan,
        role,
        task.vocabulary,
        cell_set_len=model.cell_set_len,
        batch_size=share(model.training.batch_size, ranks),
        seed=seed,
        sets=model.sets if training else plain,
        match_by_batch=task.match_by_batch,
        embed_key=model.embed_key,
        with_expression=model.gene_decoder is not None,
        # A token learns the batch of its set, but no measurement of the validation uses it.
        batches=task.batches if training or model.batches == "encoder" else None,
        device=f"cuda:{torch.cuda.current_device()}" if gpu else "cpu",
        resident=model.resident if training else "disk",
        rank=ranks.rank,
        world=ranks.world,
    )


def say_sets(loader: SetLoader) -> None:
    """Log how controls are matched, and how many conditions have too few cells."""
    table = loader.table
    for level in table.coverage():
        share = 100 * level["share"]
        log.info(
            "controls of the same %s: %d cells (%.1f %%)", level["level"], level["cells"], share
        )
    if table.left_out:
        log.warning(
            "%d conditions have fewer than %d cells and give no set (sets.short: drop)",
            table.left_out,
            loader.cell_set_len,
        )


def validation_batches(task: Task) -> tuple[list[Batch], dict[str, int]]:
    """Return the fixed validation batches, and the number of unmeasurable conditions by reason.

    Parameters
    ----------
    task
        The task, with features and batches.
    """
    table = task.plan.table
    validates = table["role"] == "val"
    unknown = validates & ~table["perturbation"].isin(task.vocabulary)
    without = {"validation_conditions_without_training_label": int(unknown.sum())}
    _say_unmeasured(int(unknown.sum()), int(validates.sum()), "a perturbation")
    if task.model.batches == "encoder":
        never = set(untrained_batches(task, "val")[KEYS].itertuples(index=False, name=None))
        pairs = table[KEYS].itertuples(index=False, name=None)
        untrained = validates & ~unknown & np.array([pair in never for pair in pairs])
        without["validation_conditions_of_untrained_batches"] = int(untrained.sum())
        _say_unmeasured(int(untrained.sum()), int(validates.sum()), "cells of a batch")
        unknown |= untrained
    plan = Plan(table[~unknown], task.plan.controls)
    if not plan.conditions("val"):
        return [], without
    loader = make_loader(task, plan, "val", VALIDATION_SEED)
    most = -(-VALIDATION_CELLS // (loader.batch_size * loader.cell_set_len))
    batches: list[Batch] = []
    epoch = loader.epoch(0)
    for batch in epoch:
        batches.append(as_batch(batch))
        if len(batches) == most:
            break
    return batches, without


def _say_unmeasured(n: int, of: int, what: str) -> None:
    if n:
        log.warning(
            "%d of %d validation conditions have %s without training condition; "
            "they are not used to choose the checkpoint",
            n,
            of,
            what,
        )
