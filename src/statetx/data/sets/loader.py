"""Batches of sets, prepared by threads ahead of the model.

The compiled loops release the interpreter lock. Threads therefore read the mapped store in
parallel, and no data is copied between processes. For a GPU, the non-zero values are copied and
made dense on the device; or the whole store is in GPU memory.
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
from statetx.data.store.line_store import LineStore
from statetx.data.store.plan import Plan
from statetx.data.store.store import Store

AHEAD = 2
"""Batches that wait for the model, in addition to one batch per thread."""
GPU_SHARE = 0.5
"""Largest share of free GPU memory for a resident store: sending it takes twice its size."""


@dataclass
class SetBatch:
    """A batch of B sets of S cells.

    The memory is reused once no reference to the batch or a view of it exists.

    Attributes
    ----------
    control
        Basal cells, [B, S, D]. ``control[b, i]`` is the control drawn for ``target[b, i]``.
    target
        Real cells, [B, S, D].
    perturbation
        Index into the vocabulary, int64 [B].
    line
        Index into `SetLoader.lines`, int64 [B].
    expression
        Expression of the target cells, [B, S, G], for a loader of an embedding with
        `with_expression`; else None.
    mask
        True where a row is a cell, bool [B, S]; None unless ``short: mask``: all rows are cells.
    rows
        Row of each target cell in the store of its line, int64 [B, S], on the CPU.
    control_rows
        Row of each basal cell in the store of its line, int64 [B, S], on the CPU.
    batches
        Id of the batch of each target cell, int64 [B, S], for a loader with `batches`; else None.
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
    """Loader of the sets of one role, as batches, epoch by epoch.

    ``loader.epoch(3)`` always gives the same batches, with any number of threads: they depend on
    seed and epoch only. Validation uses ``epoch(0)`` every time.

    Parameters
    ----------
    store
        The packed cells.
    plan
        Roles of the conditions.
    role
        ``train`` (also with sets of control cells as targets) or ``val``.
    vocabulary
        Perturbations in the order of their ids.
    cell_set_len
        Cells per set, S.
    batch_size
        Sets per batch and rank, B. The last batch of an epoch may be smaller.
    seed
        Seed of sets, order and controls.
    sets
        How sets are drawn.
    match_by_batch
        Levels of control matching, see `control_matching.Pools`.
    embed_key
        Matrix of obsm that the model works in; None, or the ``expression_key`` of the data set:
        expression.
    with_expression
        Load the expression of the targets too, if the model works in an embedding.
    batches
        Batches (plates) in the order of their ids, for a model that uses them; None: no ids.
    device
        Device of the batches.
    dtype
        Type of the cells, float32 or bfloat16.
    threads
        Threads that prepare batches; None: one per core, at most four.
    resident
        Where packed cells are kept: ``disk`` (mapped), ``ram``, ``gpu``, or ``auto``.
    rank, world
        Index of this process and number of processes. The sets of an epoch are divided among the
        processes. Sets from the start of the epoch are used twice if the number of sets is not a
        multiple of `world`.

    Attributes
    ----------
    waited_s
        Seconds that the model waited for batches.

    Raises
    ------
    ResultsError
        The role has no condition that gives a set, a perturbation or a batch is not in its
        vocabulary, a condition is not in the store, or cells have no control.
    ConfigError
        ``resident: gpu`` is set without a GPU, or the GPU has too little free memory.
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
                fix="change the split, do not use this role, or choose another `sets.short`",
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
            torch.cuda.synchronize(
                self.device
            )  # the store is complete before other streams read it
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.waited_s = 0.0

    @property
    def n_sets(self) -> int:
        """Sets per epoch of this rank."""
        return -(-self.table.n_sets // self.world)

    def __len__(self) -> int:
        """Return the number of batches per epoch, the same in all epochs and on all ranks."""
        return -(-self.n_sets // self.batch_size)

    @property
    def width(self) -> int:
        """Features of a cell, D."""
        if self._embed_key is not None:
            return int(self.store.manifest["embeddings"][self._embed_key])
        return len(self.store.genes)

    def batch(self, condition: np.ndarray, window: np.ndarray, epoch: int) -> SetBatch:
        """Draw and gather the given sets of an epoch.

        Parameters
        ----------
        condition, window
            Condition and window of each set, [B], as `SetTable.epoch` gives them.
        epoch
            Number of the epoch.
        """
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
        """Return the batch ids of the target cells, int64 [B, S], or None."""
        if self._batches is None:
            return None
        lines = (self._opened[int(i)] for i in self._line[drawn.condition])
        pairs = zip(lines, drawn.rows, strict=True)
        ids = np.stack([line.batch_ids(rows, self._batches) for line, rows in pairs])
        return torch.from_numpy(ids).to(self.device)

    def epoch(self, number: int = 0, first_batch: int = 0) -> Iterator[SetBatch]:
        """Yield the batches of an epoch.

        Parameters
        ----------
        number
            Number of the epoch.
        first_batch
            First batch to yield, for a run that resumes inside an epoch.
        """
        condition, window = self.table.epoch(number)
        sets = np.arange(self.rank, self.n_sets * self.world, self.world) % len(condition)
        chunks = [
            sets[at : at + self.batch_size]
            for at in range(first_batch * self.batch_size, len(sets), self.batch_size)
        ]
        yield from self._ahead([(condition[c], window[c]) for c in chunks], number)

    def _ahead(self, chunks: list[tuple[np.ndarray, np.ndarray]], epoch: int) -> Iterator[SetBatch]:
        """Yield the batches in order, while threads prepare the next ones."""
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
                if self._stream is not None:  # the memory was allocated in the stream of the loader
                    for tensor in (batch.control, batch.target, batch.expression):
                        if tensor is not None:
                            tensor.record_stream(torch.cuda.current_stream(self.device))
                yield batch
                del batch  # or its memory could not be reused for the next batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------------------------------------
    # gathering

    def _on_cpu(self, drawn: Drawn) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return control and target [B, S, D], and expression [B, S, G] or None, on the CPU."""
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
        """Return control and target [B, S, D], and expression [B, S, G] or None, on the GPU."""
        lines = [self._opened[int(i)] for i in self._line[drawn.condition]]
        target = list(zip(lines, drawn.rows, strict=True))
        both = [*zip(lines, drawn.controls, strict=True), *target]
        key = self._embed_key
        cells = self._expression(both) if key is None else self._matrix(both, key)
        expression = self._expression(target) if self._with_expression else None
        on_device.settle(self.device)  # the batch is complete before another stream reads it
        n, shape = drawn.rows.size, (*drawn.rows.shape, -1)
        return (
            cells[:n].view(shape),
            cells[n:].view(shape),
            None if expression is None else expression.view(shape),
        )

    def _expression(self, parts: list[tuple[LineStore, np.ndarray]]) -> Tensor:
        """Return the expression of rows of lines, [rows, G] on the device."""
        key, width = self.store.manifest["expression_key"], len(self.store.genes)
        if key is not None:
            return self._matrix(parts, key)
        if self._resident is not None and self._resident.packed is not None:
            wanted = self._resident.rows(parts, self.device)
            return self._resident.packed.rows(wanted).dense(width, self.dtype)
        return on_device.pack_rows(parts, self._buffers, self.device).dense(width, self.dtype)

    def _matrix(self, parts: list[tuple[LineStore, np.ndarray]], key: str) -> Tensor:
        """Return rows of an obsm matrix, [rows, D] on the device."""
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
    # placement of packed cells

    def _place(self, resident: str) -> on_device.Resident | None:
        """Load packed cells into RAM or GPU memory as `resident` says; None: not on the GPU."""
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
                    "`resident: gpu` needs a GPU, but none is available",
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
                    f"`resident: gpu`: the packed cells take {need / 1e9:.1f} GB, and twice that while "
                    f"they are sent; the GPU has {free / 1e9:.1f} GB free",
                    fix="set `resident: auto`",
                )
            return None
        return on_device.Resident(lines, self.device, key, expression)
