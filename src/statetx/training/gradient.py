"""Train PertSets: sets from the store, Lightning's loop, the best weights by validation."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from statetx.config import Tracking
from statetx.data.loader import SetBatch, SetLoader
from statetx.data.plan import Plan
from statetx.errors import ModelError, did_you_mean
from statetx.models.architecture import Architecture
from statetx.models.backbone import Shape
from statetx.models.pertsets import PertSets
from statetx.provenance import digest
from statetx.training.callbacks import ROWS, Curves, Progress, Validation
from statetx.training.checkpoints import Checkpoints
from statetx.training.fit import Places, Task, Trained
from statetx.training.module import Batch, PertSetsModule

log = logging.getLogger("statetx.training")

VALIDATION_CELLS = 65_536
"""Largest number of validation cells, from sets drawn over all conditions: they stay in memory, 1 GB
with 2,000 genes, and 256 sets of 256 cells rank checkpoints as well as thousands would."""

VALIDATION_SEED = 0
"""Of the validation sets: the same for all seeds, so that their losses can be compared."""


def train(task: Task, keep: list[str], places: Places, tracking: Tracking) -> Trained:
    """Train by gradient and choose the best checkpoint on the validation conditions only.

    Parameters
    ----------
    task
        Store, plan, vocabulary, settings, seed.
    keep
        Checkpoints to return: ``best``, ``last``, ``step=N``.
    places
        Where state and step checkpoints go.
    tracking
        Whether curves go to wandb too.

    Raises
    ------
    ModelError
        A test perturbation without training condition, a checkpoint that will not be written, a
        non-finite loss, an interruption, wandb asked for but not installed.
    """
    settings = task.model.training
    _check_labels(task)
    _check_keep(keep, settings.max_steps, settings.ckpt_every_n_steps)
    logger = _wandb(tracking, places.run) if tracking.wandb else None
    loader = _loader(task, task.plan, "train", task.seed)
    _say_sets(loader)
    validation_sets, without = _validation_batches(task)
    architecture = _architecture(task)
    last_step = settings.max_steps
    validation = Validation(validation_sets, settings.val_freq, last_step)
    curves = Curves(validation, max(1, min(settings.val_freq, last_step // ROWS)), last_step)
    checkpoints = Checkpoints(
        validation,
        places.state,
        places.checkpoints,
        settings.ckpt_every_n_steps,
        _identity(task, places),
    )
    resume = checkpoints.prepare(keep)
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(task.seed)
        module = PertSetsModule(PertSets(architecture), settings, task.seed)
        trainer = _trainer(
            last_step, places.state, logger, [validation, curves, checkpoints, Progress(last_step)]
        )
        begin = time.perf_counter()
        _run(trainer, module, loader, places.state, resume)
        log.info(
            "training took %.0f s, of which %.1f s waiting for cells",
            time.perf_counter() - begin,
            loader.waited_s,
        )
        checkpoints.read_best()
    if logger is not None:
        logger.experiment.finish()

    arrays: dict[str, dict[str, np.ndarray]] = {"last": module.model.arrays()}
    chosen: dict[str, dict[str, Any]] = {"last": {"step": last_step, "why": "the last step"}}
    if validation.best_weights is not None:
        arrays["best"] = validation.best_weights
        chosen["best"] = {
            "step": validation.best_step,
            "why": f"lowest validation loss of those measured every {settings.val_freq} steps",
            "val_loss": validation.best_loss,
            "validation_conditions_without_training_label": without,
        }
    else:
        arrays["best"] = arrays["last"]
        chosen["best"] = {
            "step": last_step,
            "why": "the last step: the split has no validation condition"
            + (" whose perturbation is trained" if without else ""),
        }
    for name in keep:
        if name not in arrays:
            arrays[name] = checkpoints.read_step(name)
            chosen[name] = {"step": int(name.removeprefix("step=")), "why": "asked for"}
    names = list(dict.fromkeys(["best", "last", *keep]))
    return Trained(
        architecture.to_json(),
        {name: arrays[name] for name in names},
        {name: chosen[name] for name in names},
        metrics=curves.text(),
        cell_set_len=task.model.cell_set_len,
        packages=("statetx", "numpy", "torch", "lightning", "safetensors"),
    )


def _run(
    trainer: lightning.Trainer,
    module: PertSetsModule,
    loader: SetLoader,
    state: Path,
    resume: Path | None,
) -> None:
    if resume is not None:
        log.info("resuming from %s", resume)
    try:
        trainer.fit(module, Stream(loader, module), ckpt_path=resume, weights_only=True)
    except SIGTERMException:
        # It is a SystemExit without a code: uncaught, the process would end with 0, "success".
        raise ModelError(
            f"training was stopped by SIGTERM after step {trainer.global_step}",
            where=state,
            fix="run the same command again: it goes on from the last saved step",
        ) from None
    if trainer.global_step != module.settings.max_steps:
        raise ModelError(
            f"training ended after step {trainer.global_step} of {module.settings.max_steps}",
            where=state,
            fix="run the same command again: it goes on from the last saved step",
        )


class Stream:
    """Training batches from the module's current step on, without end.

    The batch of a step is a pure function of (seed, step): step = epoch * batches per epoch + batch.
    That is why a resumed training needs no state of the loader.
    """

    def __init__(self, loader: SetLoader, module: PertSetsModule) -> None:
        self.loader = loader
        self.module = module

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches; the starting step is read when the first is asked for."""
        epoch, first = divmod(self.module.global_step, len(self.loader))
        while True:
            for batch in self.loader.epoch(epoch, first):
                yield as_batch(batch)
            epoch, first = epoch + 1, 0


def as_batch(batch: SetBatch) -> Batch:
    """Take what a step needs."""
    return Batch(batch.control, batch.target, batch.perturbation, batch.line, batch.mask)


def _loader(task: Task, plan: Plan, role: str, seed: int) -> SetLoader:
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
        batch_size=model.training.batch_size,
        seed=seed,
        sets=model.sets if training else plain,
        match_by_batch=task.match_by_batch,
        embed_key=model.embed_key,
        device="cuda" if gpu else "cpu",
        resident=model.resident if training else "disk",
    )


def _say_sets(loader: SetLoader) -> None:
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


def _validation_batches(task: Task) -> tuple[list[Batch], int]:
    """Return the fixed validation batches, and how many conditions have a label without an id."""
    table = task.plan.table
    unknown = (table["role"] == "val") & ~table["perturbation"].isin(task.vocabulary)
    without = int(unknown.sum())
    if without:
        log.warning(
            "%d of %d validation conditions have a perturbation without training condition; "
            "they cannot help to choose the checkpoint",
            without,
            int((table["role"] == "val").sum()),
        )
    plan = Plan(table[~unknown], task.plan.controls)
    if not plan.conditions("val"):
        return [], without
    loader = _loader(task, plan, "val", VALIDATION_SEED)
    most = -(-VALIDATION_CELLS // (loader.batch_size * loader.cell_set_len))
    batches: list[Batch] = []
    epoch = loader.epoch(0)
    for batch in epoch:
        batches.append(as_batch(batch))
        if len(batches) == most:
            break
    return batches, without


def _check_labels(task: Task) -> None:
    asked = task.plan.perturbations("test")
    never = [label for label in asked if label not in set(task.vocabulary)]
    if never:
        shown = ", ".join(repr(label) for label in never[:10])
        more = ", …" if len(never) > 10 else ""
        raise ModelError(
            f"{len(never)} of {len(asked)} test perturbations have no training condition, and a "
            f"model of perturbation ids cannot predict a label it never saw: {shown}{more}",
            where=task.plan_path,
            fix="use a split that trains on every test perturbation in other lines, or leave "
            "this model out of the experiment",
        )


def _check_keep(keep: list[str], max_steps: int, every: int) -> None:
    written = [f"step={step}" for step in range(every, max_steps + 1, every)]
    for name in keep:
        if name in ("best", "last"):
            continue
        if not re.fullmatch(r"step=[1-9]\d*", name) or name not in written:
            raise ModelError(
                f"training will not write the checkpoint {name!r}",
                fix=f"{did_you_mean(name, ['best', 'last', *written])} "
                f"(ckpt_every_n_steps is {every}, max_steps {max_steps})",
            )


def _architecture(task: Task) -> Architecture:
    model, width = task.model, len(task.store.genes)
    return Architecture(
        input_dim=width,
        output_dim=width,
        pert_dim=len(task.vocabulary),
        backbone=Shape(hidden_size=model.hidden_dim, **model.backbone.model_dump()),
        n_encoder_layers=model.n_encoder_layers,
        n_decoder_layers=model.n_decoder_layers,
        dropout=model.dropout,
        use_basal_projection=model.use_basal_projection,
        predict_residual=model.predict_residual,
        relu=True,  # both sides are log1p expression: _task refused every other matrix
    )


def _identity(task: Task, places: Places) -> str:
    """Digest of what this training depends on.

    The name of the state directory stands for what is not seen here, the code and the cells.
    """
    settings = task.model.model_dump(mode="json", exclude={"resident"})
    parts = [settings, task.seed, task.plan.digest, task.vocabulary, task.store.genes]
    parts.append(task.match_by_batch)
    return digest([*parts, places.state.name])


def _trainer(
    max_steps: int, state: Path, logger: Any, callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    state.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.is_available()
    return lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if gpu else "32-true",
        max_steps=max_steps,
        max_epochs=-1,
        # Under a Slurm job Lightning would requeue the job itself on a signal, behind the workflow.
        plugins=[LightningEnvironment()],
        callbacks=callbacks,
        logger=logger or False,
        default_root_dir=state,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _wandb(tracking: Tracking, run_dir: Path) -> Any:
    if importlib.util.find_spec("wandb") is None:
        raise ModelError(
            "tracking.wandb is on, but wandb is not installed",
            where="tracking.wandb",
            fix="pip install 'statetx[wandb]', or set tracking.wandb to false",
        )
    from lightning.pytorch.loggers import WandbLogger

    run_dir.mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        name="/".join(run_dir.absolute().parts[-4:]),
        project=tracking.project,
        entity=tracking.entity,
        tags=tracking.tags,
        offline=tracking.mode == "offline",
        save_dir=str(run_dir),
    )
    import wandb

    try:
        _ = logger.experiment  # starts the run now: a missing login must not cost a training
    except wandb.Error as error:
        raise ModelError(
            f"wandb cannot start: {error}",
            where="tracking.wandb",
            fix="run `wandb login`, or set tracking.mode to offline, or tracking.wandb to false",
        ) from error
    return logger


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's tips and hardware lines; its errors still come through."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
