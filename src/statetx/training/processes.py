"""Processes that train a network together, each on its share of every batch.

`statetx.training.launch` starts the processes on a single machine. For several machines,
``torchrun`` starts the command on each. In both cases torch sets the ranks in the environment, and
`joined` connects the processes.
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
    """The rank of this process, the number of processes, and their number per machine.

    Attributes
    ----------
    rank
        Number of this process, from 0.
    world
        Number of all processes.
    local_world
        Number of processes on this machine.
    """

    rank: int = 0
    world: int = 1
    local_world: int = 1


def launched() -> bool:
    """Return whether torch's launcher started this process, to train with others."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes of a training, and yield the ranks."""
    if not launched():
        yield Ranks()
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo")
    if dist.get_rank():  # only the first process logs messages that all processes have
        log.setLevel(logging.ERROR)
    yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"]))
    # Skipped after an error: the other processes would not join, and this process ends anyway.
    dist.destroy_process_group()


def first_says(say: Callable[[], Any], ranks: Ranks) -> Any:
    """Call `say` on rank 0 and broadcast its result to every rank.

    Parameters
    ----------
    say
        Function without arguments, whose result can be pickled.
    ranks
        Ranks of the processes.
    """
    if ranks.world == 1:
        return say()
    results = [say() if ranks.rank == 0 else None]
    dist.broadcast_object_list(results)
    return results[0]


def share(batch_size: int, ranks: Ranks) -> int:
    """Return the number of sets of a batch for each rank.

    Parameters
    ----------
    batch_size
        Number of sets of a batch, over all ranks.
    ranks
        Ranks of the processes.

    Raises
    ------
    ModelError
        The sets cannot be shared evenly.
    """
    if batch_size % ranks.world:
        raise ModelError(
            f"a batch of {batch_size} sets cannot be shared evenly by {ranks.world} devices",
            where="training.batch_size",
            fix=f"use a multiple of {ranks.world}; batch_size counts the sets of all devices",
        )
    return batch_size // ranks.world
