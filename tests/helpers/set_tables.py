"""Tables of sets, and what is read off them."""

from __future__ import annotations

import numpy as np

from statetx.config import Sets
from statetx.data.sets import set_table as sets
from statetx.data.sets.set_table import SetTable
from statetx.data.store.plan import Plan
from statetx.data.store.store import Store

CONTROL = "DMSO_TF_00"


def table(
    store: Store, plan: Plan, size: int = 8, role: str = "train", **changes: object
) -> SetTable:
    seed = int(changes.pop("seed", 0))  # type: ignore[call-overload]
    levels = changes.pop("by_batch", (True, False))
    return SetTable(store, plan, role, size, Sets(**changes), levels, seed)  # type: ignore[arg-type]


def drawn_epoch(made: SetTable, epoch: int) -> sets.Drawn:
    return made.draw(*made.epoch(epoch), epoch)


def by_condition(made: SetTable, drawn: sets.Drawn) -> dict[tuple[str, ...], list[np.ndarray]]:
    names = made.conditions[["line", "perturbation", "batch"]].astype(str)
    out: dict[tuple[str, ...], list[np.ndarray]] = {}
    for b, condition in enumerate(drawn.condition):
        key = tuple(names.iloc[condition])
        out.setdefault(key, []).append(drawn.rows[b, : drawn.length[b]])
    return out
