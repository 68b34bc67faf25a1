"""Batches of sets: drawn, gathered and made dense by threads that run ahead of the model.

No worker processes: the compiled loops release the interpreter lock, so that threads of this process
read the mapped store side by side and nothing is copied between processes. On a GPU, the packed
non-zero values travel and the device makes them dense; or the store lies there altogether.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statetx.config import Sets
from statetx.core.errors import ConfigError, ResultsError
from statetx.data.sets import device as on_device
from statetx.data.sets.buffers import Buffers
from statetx.data.sets.set_table import Drawn, SetTable, check_vocabulary
from statetx.data.store.plan import Plan
from statetx.data.store.store import LineStore, Store

AHEAD = 2
"""Batches that wait for the model, besides those that threads are working on."""
GPU_SHARE = 0.5
"""Largest share of free GPU memory for a resident store: it takes twice its size while it is sent."""


@dataclass
class SetBatch:
    """B sets of S cells.

    The memory is used again once nobody holds the batch or a view of it.

    Attributes
    ----------
    control
        Basal cells, [B, S, D]; row i is the control drawn for row i of `target`.
    target
        Real cells, [B, S, D].
    perturbation
        Ids into the vocabulary, int64 [B].
    line
        Ids into `SetLoader.lines`, int64 [B].
    expression
        Expression of the target cells, [B, S, G], where D is an embedding and it was asked for.
    mask
        Which rows are cells, bool [B, S]; None: all (always, unless ``short: mask``).
    rows, control_rows
        Row of every cell in its line's store, int64 [B, S], on the CPU.
    batches
        Ids of the target cells' batches, int64 [B, S], if they were asked for.
    """

    control: Tensor
    target: Tensor
    perturbation: Tensor
    line: Tensor
    expression: Tensor | None
    mask: Tensor | None
    rows: np.ndarray
    control_rows: np.ndarray
    batches: Tensor | None = None


class SetLoader:
    """The sets of one role, as batches, epoch by epoch.

    ``for batch in loader.epoch(3)`` gives the same batches whenever and however often it is asked
    for, with any number of threads: nothing but (seed, epoch) enters. Validation uses ``epoch(0)``
    every time.

    Parameters
    ----------
    store
        The packed cells.
    plan
        Roles of the conditions.
    role
        ``train`` (with control sets as further targets) or ``val``.
    vocabulary
        Perturbations in the order of their ids.
    cell_set_len
        Cells per set, S.
    batch_size
        Sets per batch and rank, B; the last batch of an epoch may be smaller.
    seed
        Of sets, order and controls.
    sets
        How sets are drawn.
    match_by_batch
        Levels of control matching: whether the batch must agree.
    embed_key
        Matrix that the model works in; None, or the data set's ``expression_key``: expression.
    with_expression
        Give the expression of the targets too, where the model works in an embedding.
    batches
        Batches (plates) in the order of their ids, for a model that learns of them.
    device
        Where batches are wanted.
    dtype
        Of cells: float32 or bfloat16.
    threads
        Threads that work ahead; None: one per core up to four.
    resident
        Where packed cells lie: ``disk`` (mapped), ``ram``, ``gpu``, or ``auto``.
    rank, world
        This process and how many there are: each set of the epoch goes to one of them (a few go to
        two, so that all have equally many).

    Attributes
    ----------
    waited_s
        Seconds that the model waited for batches.

    Raises
    ------
    ResultsError
        The role has no condition that gives a set, a perturbation or a batch is not in its vocabulary,
        a condition is not in the store, or cells have no control.
    ConfigError
        ``resident: gpu`` without a GPU or with too little memory there.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        role: str,
        vocabulary: list[str],
        *,
        cell_set_len: int,
        batch_size: int,
        seed: int = 0,
        sets: Sets | None = None,
        match_by_batch: Sequence[bool] = (True, False),
        embed_key: str | None = None,
        with_expression: bool = False,
        batches: Sequence[str] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        resident: str = "disk",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.store, self.role = store, role
        self.cell_set_len, self.batch_size, self.seed = cell_set_len, batch_size, seed
        self.device, self.dtype = torch.device(device), dtype
        self.rank, self.world = rank, world
        self.threads = threads or min(4, os.cpu_count() or 1)
        self.table = SetTable(store, plan, role, cell_set_len, sets, match_by_batch, seed)
        if not self.table.n_sets:
            raise ResultsError(
                f"the split has no condition of role {role!r} that gives a set",
                fix="change the split, do not ask for this role, or choose another `sets.short`",
            )
        check_vocabulary(self.table.conditions["perturbation"], vocabulary)
        self._batches = None if batches is None else tuple(batches)
        if batches is not None:
            check_vocabulary(self.table.batches, list(batches), "batches")
        self.lines = store.lines
        ids = {label: i for i, label in enumerate(vocabulary)}
        numbers = {name: i for i, name in enumerate(self.lines)}
        labels = self.table.conditions
        self._perturbation = labels["perturbation"].map(ids).to_numpy(dtype=np.int64)
        self._line = labels["line"].map(numbers).to_numpy(dtype=np.int64)
        key = store.manifest["expression_key"]
        self._embed_key = None if embed_key == key else embed_key
        self._with_expression = with_expression and self._embed_key is not None
        self._buffers = Buffers(pinned=self.device.type == "cuda")
        self._opened = {i: store.line(self.lines[i]) for i in np.unique(self._line).tolist()}
        self._resident = self._place(resident)
        self._stream: Any = None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the store is there before other streams read it
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.waited_s = 0.0

    @property
    def n_sets(self) -> int:
        """Sets of an epoch that this rank visits."""
        return -(-self.table.n_sets // self.world)

    def __len__(self) -> int:
        """Number of batches of an epoch; the same in all epochs and on all ranks."""
        return -(-self.n_sets // self.batch_size)

    @property
    def width(self) -> int:
        """Features of a cell, D."""
        if self._embed_key is not None:
            return int(self.store.manifest["embeddings"][self._embed_key])
        return len(self.store.genes)

    def batch(self, condition: np.ndarray, window: np.ndarray, epoch: int) -> SetBatch:
        """Draw and gather the given sets of an epoch, see `SetTable.epoch`."""
        drawn = self.table.draw(condition, window, epoch)
        if self.device.type == "cpu":
            control, target, expression = self._on_cpu(drawn)
        else:
            with torch.cuda.stream(self._stream):
                control, target, expression = self._on_device(drawn)
        mask = None
        if self.table.settings.short == "mask":
            mask = torch.from_numpy(np.arange(self.cell_set_len) < drawn.length[:, None])
            mask = mask.to(self.device)
        return SetBatch(
            control=control,
            target=target,
            perturbation=torch.from_numpy(self._perturbation[drawn.condition]).to(self.device),
            line=torch.from_numpy(self._line[drawn.condition]).to(self.device),
            expression=expression,
            mask=mask,
            rows=drawn.rows,
            control_rows=drawn.controls,
            batches=self._batch_ids(drawn),
        )

    def _batch_ids(self, drawn: Drawn) -> Tensor | None:
        if self._batches is None:
            return None
        lines = (self._opened[int(i)] for i in self._line[drawn.condition])
        pairs = zip(lines, drawn.rows, strict=True)
        ids = np.stack([line.batch_ids(rows, self._batches) for line, rows in pairs])
        return torch.from_numpy(ids).to(self.device)

    def epoch(self, number: int = 0, first_batch: int = 0) -> Iterator[SetBatch]:
        """Yield the batches of an epoch, from `first_batch` on (for a run that was interrupted)."""
        condition, window = self.table.epoch(number)
        own = np.arange(self.rank, self.n_sets * self.world, self.world) % len(condition)
        chunks = [
            own[at : at + self.batch_size]
            for at in range(first_batch * self.batch_size, len(own), self.batch_size)
        ]
        yield from self._ahead([(condition[c], window[c]) for c in chunks], number)

    def _ahead(self, chunks: list[tuple[np.ndarray, np.ndarray]], epoch: int) -> Iterator[SetBatch]:
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="statetx-loader")
        waiting: deque[Future[SetBatch]] = deque()
        following = iter(chunks)

        def order_one() -> None:
            with contextlib.suppress(StopIteration):
                waiting.append(pool.submit(self.batch, *next(following), epoch))

        try:
            for _ in range(self.threads + AHEAD):
                order_one()
            while waiting:
                begin = time.perf_counter()
                batch = waiting.popleft().result()
                self.waited_s += time.perf_counter() - begin
                order_one()
                if self._stream is not None:  # the memory belongs to the other stream's pool
                    for tensor in (batch.control, batch.target, batch.expression):
                        if tensor is not None:
                            tensor.record_stream(torch.cuda.current_stream(self.device))
                yield batch
                del batch  # or its memory would be held while the next is made
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------------------------------------
    # gathering

    def _on_cpu(self, drawn: Drawn) -> tuple[Tensor, Tensor, Tensor | None]:
        shape = (*drawn.rows.shape, self.width)
        control, target = self._buffers.empty(shape), self._buffers.empty(shape)
        expression = None
        if self._with_expression:
            expression = self._buffers.empty((*drawn.rows.shape, len(self.store.genes)))
        for b, condition in enumerate(drawn.condition):
            line = self._opened[int(self._line[condition])]
            for rows, out in ((drawn.rows[b], target[b]), (drawn.controls[b], control[b])):
                if self._embed_key is None:
                    line.expression(rows, out)
                else:
                    line.embedding(self._embed_key, rows, out)
            if expression is not None:
                line.expression(drawn.rows[b], expression[b])
        made = (control, target, expression)
        first, second, third = (None if a is None else self._cast(a) for a in made)
        assert first is not None
        assert second is not None
        return first, second, third

    def _cast(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.dtype)

    def _on_device(self, drawn: Drawn) -> tuple[Tensor, Tensor, Tensor | None]:
        lines = [self._opened[int(i)] for i in self._line[drawn.condition]]
        target = list(zip(lines, drawn.rows, strict=True))
        both = [*zip(lines, drawn.controls, strict=True), *target]
        key = self._embed_key
        cells = self._expression(both) if key is None else self._matrix(both, key)
        expression = self._expression(target) if self._with_expression else None
        on_device.settle(self.device)  # the batch is there before another stream reads it
        n, shape = drawn.rows.size, (*drawn.rows.shape, -1)
        return (
            cells[:n].view(shape),
            cells[n:].view(shape),
            None if expression is None else expression.view(shape),
        )

    def _expression(self, parts: list[tuple[LineStore, np.ndarray]]) -> Tensor:
        """Return what `LineStore.expression` gives, [rows, G], on the device."""
        key, width = self.store.manifest["expression_key"], len(self.store.genes)
        if key is not None:
            return self._matrix(parts, key)
        if self._resident is not None and self._resident.packed is not None:
            wanted = self._resident.rows(parts, self.device)
            return self._resident.packed.rows(wanted).dense(width, self.dtype)
        return on_device.pack_rows(parts, self._buffers, self.device).dense(width, self.dtype)

    def _matrix(self, parts: list[tuple[LineStore, np.ndarray]], key: str) -> Tensor:
        """Return rows of an obsm matrix, [rows, D], on the device."""
        if self._resident is not None and self._resident.key == key:
            wanted = self._resident.rows(parts, self.device)
            return self._resident.dense[wanted].to(self.dtype)
        size, width = self.cell_set_len, parts[0][0].obsm[key].shape[1]
        out = self._buffers.empty((len(parts) * size, width))
        for i, (line, rows) in enumerate(parts):
            line.embedding(key, rows, out[i * size : (i + 1) * size])
        sent = on_device.send(out, self.device)
        on_device.settle(self.device)
        return sent.to(self.dtype)

    # ------------------------------------------------------------------------------------------
    # where packed cells lie

    def _place(self, resident: str) -> on_device.Resident | None:
        if resident == "ram":
            for line in self._opened.values():
                line.load()
        if resident not in ("gpu", "auto"):
            return None
        outside = self.store.manifest["expression_key"]
        key = self._embed_key or outside
        expression = outside is None and (key is None or self._with_expression)
        lines = list(self._opened.values())
        if self.device.type != "cuda":
            if resident == "gpu":
                raise ConfigError(
                    "`resident: gpu` needs a GPU, and there is none",
                    fix="set `resident: auto`, or run on a machine with a GPU",
                )
            return None
        need, free = (
            on_device.bytes_needed(lines, key, expression),
            on_device.free_bytes(self.device),
        )
        if need > free * GPU_SHARE:
            if resident == "gpu":
                raise ConfigError(
                    f"`resident: gpu`: the packed cells take {need / 1e9:.1f} GB, twice that while "
                    f"they are sent; the GPU has {free / 1e9:.1f} GB free",
                    fix="set `resident: auto`",
                )
            return None
        return on_device.Resident(lines, self.device, key, expression)
