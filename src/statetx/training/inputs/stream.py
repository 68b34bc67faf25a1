"""Where the sets of a training come from: a stream without end, and the few that validate."""

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
"""Largest number of validation cells, from sets drawn over all conditions: they stay in memory, 1 GB
with 2,000 genes, and 256 sets of 256 cells rank checkpoints as well as thousands would."""

KEYS = ["line", "perturbation"]
VALIDATION_SEED = 0
"""Of the validation sets: the same for all seeds, so that their losses can be compared."""


class Stream:
    """Training batches from the module's current step on, without end.

    The batches of a step are a pure function of (seed, step): the n-th batch of a training is batch
    n mod (batches per epoch) of epoch n div (batches per epoch).
    That is why a resumed training needs no state of the loader.
    """

    def __init__(self, loader: SetLoader, module: PertSetsModule) -> None:
        self.loader = loader
        self.module = module

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches; the starting step is read when the first is asked for."""
        batches = self.module.global_step * self.module.settings.accumulate
        epoch, first = divmod(batches, len(self.loader))
        while True:
            for batch in self.loader.epoch(epoch, first):
                yield as_batch(batch)
            epoch, first = epoch + 1, 0


def as_batch(batch: SetBatch) -> Batch:
    """Take what a step needs."""
    fields = (batch.control, batch.target, batch.perturbation, batch.line)
    return Batch(*fields, batch.mask, batch.expression, batch.batches)


def make_loader(
    task: Task,
    plan: Plan,
    role: str,
    seed: int,
    ranks: Ranks = Ranks(),  # noqa: B008 (immutable)
) -> SetLoader:
    """Return the loader of a role's sets, as the model's settings want them."""
    model, training = task.model, role == "train"
    gpu = training and torch.cuda.is_available()
    # Validation sets are few, kept, and compared as means over their cells: full, on the CPU.
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
        # A token is taught the batch of its set; nothing measured in validation asks for it.
        batches=task.batches if training or model.batches == "encoder" else None,
        device=f"cuda:{torch.cuda.current_device()}" if gpu else "cpu",
        resident=model.resident if training else "disk",
        rank=ranks.rank,
        world=ranks.world,
    )


def say_sets(loader: SetLoader) -> None:
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
    """Return the fixed validation batches, and how many conditions cannot be measured, by reason."""
    table = task.plan.table
    validates = table["role"] == "val"
    unknown = validates & ~table["perturbation"].isin(task.vocabulary)
    without = {"validation_conditions_without_training_label": int(unknown.sum())}
    _say_unmeasured(int(unknown.sum()), int(validates.sum()), "a perturbation")
    if task.model.batches == "encoder":
        never = set(untrained_batches(task, "val")[KEYS].itertuples(index=False, name=None))
        pairs = table[KEYS].itertuples(index=False, name=None)
        alien = validates & ~unknown & np.array([pair in never for pair in pairs])
        without["validation_conditions_of_untrained_batches"] = int(alien.sum())
        _say_unmeasured(int(alien.sum()), int(validates.sum()), "cells of a batch")
        unknown |= alien
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
            "they cannot help to choose the checkpoint",
            n,
            of,
            what,
        )
