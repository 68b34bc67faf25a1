"""A cell line in memory, with plates and effects as a test wants them, read like a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from statetx.data.store.plan import write_plan
from statetx.evaluation.held_out import evaluate, reference

CONTROL = "DMSO"
LINE = "L1"


@dataclass
class Line:
    """What `data.store.LineStore` offers; every perturbation is a list of (plate, cells, shift)."""

    parts: dict[str, list[tuple[str, int, np.ndarray]]]
    plates: dict[str, np.ndarray]
    seed: int = 0
    name: str = LINE
    cells: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)
    where: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        cells, labels, where = [], [], []
        for label, parts in self.parts.items():
            for plate, n, shift in parts:
                mean = 6.0 + self.plates[plate] + shift
                cells.append(rng.normal(mean, 0.5, (n, len(mean))))
                labels += [label] * n
                where += [plate] * n
        self.cells = np.concatenate(cells).astype(np.float32)
        self.labels, self.where = np.array(labels), np.array(where)

    @property
    def conditions(self) -> pd.DataFrame:
        names = sorted(self.parts)
        return pd.DataFrame({"perturbation": names, "drug": names, "dose": None})

    def rows(self, perturbation: str, max_cells: int | None = None, seed: int = 0) -> np.ndarray:
        rows = np.flatnonzero(self.labels == perturbation)
        if max_cells is not None and len(rows) > max_cells:
            rows = np.sort(np.random.default_rng(seed).choice(rows, max_cells, replace=False))
        return rows

    def batches(self, rows: np.ndarray) -> np.ndarray:
        return self.where[rows]

    def expression(self, rows: np.ndarray) -> np.ndarray:
        return self.cells[rows]


@dataclass
class Store:
    """What `data.store.Store` offers, with one line."""

    only: Line
    control: str = CONTROL
    directory: Path = Path("memory")

    @property
    def manifest(self) -> dict[str, object]:
        return {"expression_key": None, "labels_are_genes": False}

    @property
    def genes(self) -> list[str]:
        return [f"g{i}" for i in range(self.only.cells.shape[1])]

    def line(self, name: str) -> Line:
        assert name == LINE
        return self.only


def install(monkeypatch, line: Line, tested: list[str], home: Path) -> Path:
    """Let both stages read `line`; returns a plan that tests some labels and trains the others."""
    for module in (reference, evaluate):
        monkeypatch.setattr(module, "open_store", lambda *_: Store(line))
    names = [name for name in line.parts if name != CONTROL]
    table = pd.DataFrame({"line": LINE, "perturbation": names, "reason": ""})
    table["role"] = ["test" if name in tested else "train" for name in names]
    write_plan(table, home / "plan.parquet")
    return home / "plan.parquet"
