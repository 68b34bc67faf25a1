"""Control pools: the control cells that a treated cell may be paired with.

The levels of ``control_match`` of the data set are tried in their order: controls of the same line
and batch, or of the same line. A cell that no level matches is an error. Controls never come from
another line.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from statetx.core.errors import ResultsError
from statetx.data.sets import draws
from statetx.data.store.roles import Runs


class Pools:
    """Control pools of lines, as arrays for the compiled draws.

    Parameters
    ----------
    by_batch
        Levels of matching in order of preference. True: same line and batch; False: same line.
    """

    def __init__(self, by_batch: Sequence[bool] = (True, False)) -> None:
        self.by_batch = tuple(by_batch)
        self._runs: list[list[tuple[int, int]]] = []
        self._known: dict[tuple[str, str | None], int] = {}

    def find(self, line: str, runs: Runs, batch: str) -> tuple[int, int] | None:
        """Return (pool, level) for the cells of a batch of a line; None if no level matches."""
        for level, same_batch in enumerate(self.by_batch):
            chosen = [runs[batch]] if batch in runs else []
            if not same_batch:
                chosen = [runs[name] for name in sorted(runs)]
            chosen = [(start, stop) for start, stop in chosen if stop > start]
            if chosen:
                key = (line, batch if same_batch else None)
                if key not in self._known:
                    self._known[key] = len(self._runs)
                    self._runs.append(chosen)
                return self._known[key], level
        return None

    def runs(self) -> draws.ControlRuns:
        """Return the pools as arrays."""
        first = np.cumsum([0, *(len(runs) for runs in self._runs)])
        start = [a for runs in self._runs for a, _ in runs]
        before = [np.cumsum([0, *(b - a for a, b in runs)]) for runs in self._runs]
        return draws.ControlRuns(
            first_run=first.astype(np.int64),
            run_start=np.asarray(start, dtype=np.int64),
            run_before=np.concatenate([np.empty(0, dtype=np.int64), *before]).astype(np.int64),
        )


def no_control(line: str, batch: str, by_batch: Sequence[bool]) -> ResultsError:
    """Return the error for cells that no control matches."""
    strict = all(by_batch)
    return ResultsError(
        f"cells of line {line!r}, batch {batch!r} have no control cell to start from",
        where="control_match" if strict else f"controls of line {line!r}",
        fix="add a last entry with only the cell line to `control_match` of the data set, or drop "
        "this batch"
        if strict
        else "add controls of this line; with `controls: partition` a line needs at least ten",
    )


def draw_controls(
    line: str,
    runs: Runs,
    batches: np.ndarray,
    seed: int,
    name: object,
    by_batch: Sequence[bool] = (True, False),
) -> np.ndarray:
    """Draw one control cell of the line for every cell.

    Inside a pool, controls are drawn without replacement until all were used, then again.

    Parameters
    ----------
    line
        Name of the line.
    runs
        Controls of the line, see `control_runs`.
    batches
        Batch label of each cell, [n].
    seed
        Seed of the draw.
    name
        Name of the draw, such as the perturbation. Equal names and seeds give equal draws.
    by_batch
        Levels of matching, see `Pools`.

    Returns
    -------
    numpy.ndarray
        Row of each cell's control, int64 [n].

    Raises
    ------
    ResultsError
        No control matches some of the cells.
    """
    pools = Pools(by_batch)
    labels, codes = np.unique(np.asarray(batches).astype(str), return_inverse=True)
    pool_of_label = np.empty(len(labels), dtype=np.int64)  # [batch labels]
    for i, batch in enumerate(labels.tolist()):
        match = pools.find(line, runs, batch)
        if match is None:
            raise no_control(line, batch, by_batch)
        pool_of_label[i], _ = match
    out = np.empty(len(batches), dtype=np.int64)
    if len(out):
        key = draws.name_key("control", seed, line, name)
        draws.controls(key, pool_of_label[codes], pools.runs(), True, out)
    return out
