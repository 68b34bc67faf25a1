"""Train PertSets on sets of the store with Lightning, and choose the best weights by validation."""

from __future__ import annotations

import logging
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from statetx.config import Training
from statetx.core import stopping
from statetx.core.digests import digest
from statetx.core.errors import ModelError, Stopped, did_you_mean
from statetx.data.sets.loader import SetLoader
from statetx.models.kinds.pertsets import FEATURES
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.decoder import DecoderShape
from statetx.models.network.set_transformer import PertSets
from statetx.training.inputs.covariates import facts, features_digest, with_covariates
from statetx.training.inputs.stream import Stream, make_loader, say_sets, validation_batches
from statetx.training.loop.callbacks import ROWS, Curves, Validation
from statetx.training.loop.checkpoints import Checkpoints
from statetx.training.loop.lightning_module import Objective, PertSetsModule
from statetx.training.loop.monitors import COMPARES
from statetx.training.loop.orders import Orders
from statetx.training.loop.trainer import make_trainer, products, quiet, wandb_logger
from statetx.training.processes import Ranks, first_says, joined
from statetx.training.task import Task, Trained, Workspace

log = logging.getLogger("statetx.training")


def train(task: Task, workspace: Workspace) -> Trained | None:
    """Train by gradient and choose the best checkpoint on the validation conditions only.

    If several processes share the batches, they are joined, and all but the first return None.

    Parameters
    ----------
    task
        Store, plan, vocabulary, settings, seed.
    workspace
        Directories, the checkpoints to keep, and displays.

    Raises
    ------
    ModelError
        The model will not know a test perturbation or batch, training will not write a checkpoint
        to keep, or the processes cannot share a batch. Or wandb is on but not installed, a loss is
        not finite, or training was interrupted.
    """
    task = with_covariates(task)
    _check_keep(
        workspace.keep, task.model.training.max_steps, task.model.training.ckpt_every_n_steps
    )
    with joined() as ranks:
        return _train(task, workspace, ranks)


def _train(task: Task, workspace: Workspace, ranks: Ranks) -> Trained | None:
    settings, tracking, keep = task.model.training, workspace.tracking, workspace.keep
    logger = wandb_logger(tracking, workspace.run) if tracking.wandb and not ranks.rank else None
    loader = make_loader(task, task.plan, "train", task.seed, ranks)
    say_sets(loader)
    validation_sets, without = validation_batches(task)
    architecture = _architecture(task)
    last_step = settings.max_steps
    validation = Validation(
        validation_sets,
        settings.val_freq,
        last_step,
        settings.monitor,
        settings.patience,
        settings.collapse_below,
    )
    every = max(1, min(settings.val_freq, last_step // ROWS))
    curves = Curves(validation, every, last_step, lambda: loader.waited_s)
    checkpoints = Checkpoints(
        validation,
        workspace.state,
        workspace.checkpoints,
        settings.ckpt_every_n_steps,
        _identity(task, workspace),
    )
    resume = first_says(lambda: checkpoints.prepare(keep), ranks)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(task.seed)
        features = None if task.features is None else torch.from_numpy(task.features)
        network, objective = PertSets(architecture), _objective(task.model)
        module = PertSetsModule(network, settings, task.seed, objective, features)
        if settings.compile:
            module.model.compile()
        orders = Orders(checkpoints.due, checkpoints.ask)
        shown = [] if workspace.progress is None else [workspace.progress(last_step)]
        callbacks = [orders, *shown, validation, curves, checkpoints]
        trainer = make_trainer(settings, workspace.state, logger, callbacks, ranks)
        begin = time.perf_counter()
        with products(settings), stopping.patiently():
            _run(trainer, module, loader, workspace.state, resume, validation)
        log.info(
            "training took %.0f s, of which %.1f s waiting for cells",
            time.perf_counter() - begin,
            loader.waited_s,
        )
        checkpoints.read_best()
    if ranks.rank:
        return None
    if logger is not None:
        logger.experiment.finish()

    arrays: dict[str, dict[str, np.ndarray]] = {"last": module.evaluated.arrays()}
    done = trainer.global_step
    why = (
        "the last step" if done == last_step else f"stopped: no better {settings.monitor} for long"
    )
    chosen: dict[str, dict[str, Any]] = {"last": {"step": done, "why": why}}
    if validation.best_weights is not None:
        arrays["best"] = validation.best_weights
        chosen["best"] = {
            "step": validation.best_step,
            "why": f"best {settings.monitor} of those measured every {settings.val_freq} steps",
            settings.monitor: validation.best_value,
            **without,
        }
    else:
        arrays["best"] = arrays["last"]
        why = f"the last step: {_no_best(validation, without)}"
        log.warning("best is %s", why)
        chosen["best"] = {"step": done, "why": why}
    for name in keep:
        if name not in arrays:
            _check_reached(name, done, settings)
            arrays[name] = checkpoints.read_step(name)
            chosen[name] = {"step": int(name.removeprefix("step=")), "why": "asked for"}
    names = list(dict.fromkeys(["best", "last", *keep]))
    if task.features is not None:
        arrays = {name: {**weights, FEATURES: task.features} for name, weights in arrays.items()}
    return Trained(
        architecture.to_json(),
        {name: arrays[name] for name in names},
        {name: chosen[name] for name in names},
        metrics=curves.text(),
        cell_set_len=task.model.cell_set_len,
        packages=("statetx", "numpy", "torch", "lightning", "safetensors"),
        facts=facts(task),
    )


def _run(
    trainer: lightning.Trainer,
    module: PertSetsModule,
    loader: SetLoader,
    state: Path,
    resume: Path | None,
    validation: Validation,
) -> None:
    if resume is not None:
        log.info("resuming from %s", resume)
    try:
        trainer.fit(module, Stream(loader, module), ckpt_path=resume, weights_only=True)
        module.settle()
    except ModelError:
        if module.bad_batch is not None:
            state.mkdir(parents=True, exist_ok=True)
            bad = {k: v for k, v in module.bad_batch._asdict().items() if v is not None}
            torch.save({name: value.cpu() for name, value in bad.items()}, state / "bad_batch.pt")
        raise
    except SIGTERMException:
        # This is a SystemExit without a code. Uncaught, the process would end with 0, a success.
        number = stopping.heard() or signal.SIGTERM
        raise Stopped(
            f"training was stopped by {signal.Signals(number).name} after step "
            f"{trainer.global_step}",
            where=state,
            fix="run the same command again: training resumes from this step",
            number=number,
        ) from None
    if trainer.global_step != module.settings.max_steps and validation.stopped_at is None:
        raise ModelError(
            f"training ended after step {trainer.global_step} of {module.settings.max_steps}",
            where=state,
            fix="run the same command again: training resumes from the last saved step",
        )


def _check_keep(keep: Sequence[str], max_steps: int, every: int) -> None:
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


def _check_reached(name: str, done: int, settings: Training) -> None:
    if int(name.removeprefix("step=")) > done:
        raise ModelError(
            f"there is no checkpoint {name!r}: training stopped at step {done}, after "
            f"{settings.patience} validations without a better {settings.monitor}",
            where="training.patience",
            fix=f"set evaluation.checkpoints to best, last or a step up to {done}, which does not "
            "train again, or raise patience (null: train all steps)",
        )


def _no_best(validation: Validation, without: dict[str, int]) -> str:
    """Return the reason why no validation chose a checkpoint."""
    if validation.batches:
        return (
            f"{validation.monitor} was not defined (NaN) at any of {validation.measured} "
            "validations"
            + (
                ": it compares perturbations of a line, and no line has two that validate and "
                "differ"
                if validation.monitor in COMPARES
                else ": predicted or real deltas were constant"
            )
        )
    measurable = " that can be measured" if any(without.values()) else ""
    return f"the split has no validation condition{measurable}"


def _architecture(task: Task) -> Architecture:
    model, genes = task.model, len(task.store.genes)
    width, decoder = genes, None
    if model.gene_decoder is not None:
        width = int(task.store.manifest["embeddings"][model.embed_key])
        wanted = model.gene_decoder
        decoder = DecoderShape(wanted.kind, width, genes, tuple(wanted.hidden_dims), wanted.dropout)
    return Architecture(
        input_dim=width,
        output_dim=width,
        pert_dim=len(task.vocabulary) if task.features is None else task.features.shape[1],
        backbone=Shape(hidden_size=model.hidden_dim, **model.backbone.model_dump()),
        n_encoder_layers=model.n_encoder_layers,
        n_decoder_layers=model.n_decoder_layers,
        dropout=model.dropout,
        use_basal_projection=model.use_basal_projection,
        predict_residual=model.predict_residual,
        relu=decoder is None,  # expression is not negative, but an embedding can be
        batch_dim=None if task.batches is None else len(task.batches),
        batch_encoder=model.batches == "encoder",
        batch_token=model.batches == "token",
        confidence_token=model.confidence_token,
        decoder=decoder,
        dropout_per_cell=model.dropout_per_cell,
    )


def _objective(model: Any) -> Objective:
    weight = 1.0 if model.gene_decoder is None else model.gene_decoder.weight
    return Objective(model.loss, model.loss_chunks, weight, model.regularization)


def _identity(task: Task, workspace: Workspace) -> str:
    """Return a digest of everything that this training depends on.

    The name of the state directory represents code and cells, which this function does not read.
    """
    unread = {"resident", "devices", "frozen", "perturbation_features_file"}
    settings = task.model.model_dump(mode="json", exclude=unread)
    parts = [settings, task.seed, task.plan.digest, task.vocabulary, task.store.genes]
    parts += [task.match_by_batch, task.batches, features_digest(task)]
    return digest([*parts, workspace.state.name])
