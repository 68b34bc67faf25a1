"""Lightning's trainer without its files, tips and requeueing, and the wandb logger."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from statetx.config import Tracking, Training
from statetx.core.errors import ModelError
from statetx.core.writes import disk_full
from statetx.training.processes import Ranks


class DirectIO(TorchCheckpointIO):
    """A checkpoint plugin that writes a state directly to its path.

    Lightning's plugin builds the state in memory, copies it, writes it to ``$TMPDIR`` and moves it.
    That takes three states of memory and space in ``$TMPDIR``, which may be small. If ``$TMPDIR``
    is full, the error names the wrong path. A killed training leaves its file there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a state; the caller makes sure that only complete files are used.

        Parameters
        ----------
        checkpoint
            The state.
        path
            File to write.
        storage_options
            Not used.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        try:
            with open(path, "wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch raises this for a failed write
            cause: BaseException | None = error
            while cause is not None and not disk_full(cause):
                cause = cause.__context__
            if cause is None:
                raise
            raise OSError(getattr(cause, "errno", errno.ENOSPC), str(cause), str(path)) from error


def make_trainer(
    settings: Training,
    state: Path,
    logger: Any,
    callbacks: list[lightning.Callback],
    ranks: Ranks = Ranks(),  # noqa: B008 (immutable)
) -> lightning.Trainer:
    """Return a trainer that writes no files itself; `callbacks` write.

    Parameters
    ----------
    settings
        Section ``training`` of the model.
    state
        Directory of the resume state; it is created.
    logger
        Lightning logger; None: no logger.
    callbacks
        Callbacks in order.
    ranks
        Ranks of the processes that train together.
    """
    state.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.is_available()
    # In a Slurm job, Lightning would requeue the job on a signal, without the workflow knowing.
    environment: ClusterEnvironment = LightningEnvironment()
    strategy: Any = "auto"
    if ranks.world > 1:
        environment = TorchElasticEnvironment()
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=ranks.local_world,
        num_nodes=ranks.world // ranks.local_world,
        strategy=strategy,
        precision="bf16-mixed" if gpu and settings.precision != "float32" else "32-true",
        max_steps=settings.max_steps,
        accumulate_grad_batches=settings.accumulate,
        max_epochs=-1,
        plugins=[environment, DirectIO()],
        callbacks=callbacks,
        logger=logger or False,
        default_root_dir=state,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


@contextlib.contextmanager
def products(settings: Training) -> Iterator[None]:
    """Set the precision of float32 matrix products to the precision that the settings allow.

    GPUs use TF32 for products that autocast leaves in float32. CPUs use bfloat16 if the settings
    say so and the CPU has instructions for it. The energy loss keeps its products in float32 on a
    CPU.

    Parameters
    ----------
    settings
        Section ``training`` of the model.
    """
    before = torch.get_float32_matmul_precision()
    if torch.cuda.is_available():
        level = "highest" if settings.precision == "float32" else "high"
    else:
        level = "medium" if settings.precision == "bfloat16" else "highest"
    torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def wandb_logger(tracking: Tracking, run_dir: Path) -> Any:
    """Start a wandb run and return its logger.

    Parameters
    ----------
    tracking
        Settings of the tracking.
    run_dir
        Directory of the run; offline tracking writes to it.

    Raises
    ------
    ModelError
        wandb is not installed or cannot start.
    """
    if importlib.util.find_spec("wandb") is None:
        raise ModelError(
            "tracking.wandb is on, but wandb is not installed",
            where="tracking.wandb",
            fix="run pip install 'statetx[wandb]', or set tracking.wandb to false",
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
        # This starts the run before training, so that a missing login does not cost a training.
        _ = logger.experiment
    except wandb.Error as error:
        raise ModelError(
            f"wandb cannot start: {error}",
            where="tracking.wandb",
            fix="run `wandb login`, or set tracking.mode to offline, or tracking.wandb to false",
        ) from error
    return logger


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's tips and hardware messages; errors are still shown."""
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
