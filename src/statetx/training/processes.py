"""Processes that train one network together, each on its share of every batch.

`launch` starts them on one machine; on several, ``torchrun`` starts the command on each. Either way
torch says in the environment who is who, and `joined` gathers them.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from statetx.core.errors import ModelError

log = logging.getLogger("statetx")


class Ranks(NamedTuple):
    """Which of `world` processes this is, and how many of them share a machine."""

    rank: int = 0
    world: int = 1
    local_world: int = 1


def launched() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes, if there are any."""
    if not launched():
        yield Ranks()
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo")
    if dist.get_rank():  # what happens in all of them is told once
        log.setLevel(logging.ERROR)
    yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"]))
    # Not after an error: the others do not come, and the process ends anyway.
    dist.destroy_process_group()


def first_says(say: Callable[[], Any], ranks: Ranks) -> Any:
    """Return what `say` gives on rank 0, on all ranks."""
    if ranks.world == 1:
        return say()
    told = [say() if ranks.rank == 0 else None]
    dist.broadcast_object_list(told)
    return told[0]


def share(batch_size: int, ranks: Ranks) -> int:
    """Return how many sets of a batch each rank takes.

    Raises
    ------
    ModelError
        They cannot be shared evenly.
    """
    if batch_size % ranks.world:
        raise ModelError(
            f"a batch of {batch_size} sets cannot be shared evenly by {ranks.world} devices",
            where="training.batch_size",
            fix=f"take a multiple of {ranks.world}; batch_size counts the sets of all devices",
        )
    return batch_size // ranks.world
