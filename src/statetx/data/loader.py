"""Batches of sets: gathered from the mapped store by a thread that runs ahead of the model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from statetx.data import sets
from statetx.data.plan import Plan
from statetx.data.store import Store
from statetx.errors import ResultsError

AHEAD = 4
"""Batches gathered ahead of the model."""


@dataclass(frozen=True)
class SetBatch:
    """B sets of S cells.

    Attributes
    ----------
    control
        Basal cells, float32 [B, S, D]; row i is the control drawn for row i of `target`.
    target
        Real cells, float32 [B, S, D].
    perturbation
        Ids into the vocabulary, int64 [B].
    line
        Ids into `SetLoader.lines`, int64 [B].
    """

    control: np.ndarray
    target: np.ndarray
    perturbation: np.ndarray
    line: np.ndarray


class SetLoader:
    """The sets of one role, as batches, epoch by epoch.

    ``for batch in loader.epoch(3)`` gives the same batches whenever and however often it is asked
    for: nothing but (seed, epoch) enters. Validation uses ``epoch(0)`` every time.

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
        Sets per batch, B; the last batch of an epoch may be smaller.
    seed
        Of sets, order and controls.

    Raises
    ------
    ResultsError
        A perturbation of the role is not in the vocabulary, or a condition is not in the store.
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
    ) -> None:
        self.store = store
        self.role = role
        self.cell_set_len = cell_set_len
        self.batch_size = batch_size
        self.seed = seed
        self.pairs = sets.conditions(store, plan, role)
        sets.check_vocabulary(self.pairs, vocabulary)
        self._perturbation_id = {label: i for i, label in enumerate(vocabulary)}
        self.lines = store.lines
        self._line_id = {name: i for i, name in enumerate(self.lines)}
        sizes = [np.diff(store.line(name).run(label))[0] for name, label in self.pairs]
        self.n_sets = int(sum(sets.n_windows(int(n), cell_set_len) for n in sizes))

    def __len__(self) -> int:
        """Number of batches of an epoch; the same in all epochs."""
        return -(-self.n_sets // self.batch_size)

    @property
    def width(self) -> int:
        """Features of a cell, D."""
        return len(self.store.genes)

    def batch(self, chosen: list[sets.SetId], epoch: int) -> SetBatch:
        """Gather the given sets."""
        size, shape = self.cell_set_len, (len(chosen), self.cell_set_len, self.width)
        control = np.empty(shape, dtype=np.float32)
        target = np.empty(shape, dtype=np.float32)
        rows: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for i, one in enumerate(chosen):
            line = self.store.line(one.line)
            own = sets.set_rows(line, one, size, self.seed, epoch)
            name = f"{epoch}\0{one.perturbation}\0{one.window}"
            drawn = sets.draw_controls(line, self.store.control, line.batches(own), self.seed, name)
            rows.setdefault(one.line, []).append((i, own, drawn))
        for name, parts in rows.items():  # one gather per line instead of two per set
            line = self.store.line(name)
            wanted = np.concatenate([np.concatenate([own, drawn]) for _, own, drawn in parts])
            blocks = line.expression(wanted).reshape(-1, 2, size, self.width)
            for (i, _, _), block in zip(parts, blocks, strict=True):
                target[i], control[i] = block
        return SetBatch(
            control=control,
            target=target,
            perturbation=np.asarray([self._perturbation_id[one.perturbation] for one in chosen]),
            line=np.asarray([self._line_id[one.line] for one in chosen]),
        )

    def epoch(self, number: int = 0, first_batch: int = 0) -> Iterator[SetBatch]:
        """Yield the batches of an epoch, from `first_batch` on (for a run that was interrupted).

        Raises
        ------
        ResultsError
            The role has no condition.
        """
        if not self.pairs:
            raise ResultsError(
                f"the split has no condition of role {self.role!r}",
                fix="change the split, or do not ask for this role",
            )
        order = sets.epoch_plan(self.store, self.pairs, self.cell_set_len, self.seed, number)
        chunks = [
            order[at : at + self.batch_size]
            for at in range(first_batch * self.batch_size, len(order), self.batch_size)
        ]
        yield from self._ahead(chunks, number)

    def _ahead(self, chunks: list[list[sets.SetId]], epoch: int) -> Iterator[SetBatch]:
        ready: queue.Queue[SetBatch | BaseException | None] = queue.Queue(AHEAD)
        stopped = threading.Event()

        def put(item: SetBatch | BaseException | None) -> bool:
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for chunk in chunks:
                    if not put(self.batch(chunk, epoch)):
                        return
                put(None)
            except BaseException as error:  # handed to the consumer, who raises it
                put(error)

        thread = threading.Thread(target=work, name="statetx-loader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()
