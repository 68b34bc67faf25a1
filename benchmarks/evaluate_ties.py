"""Where the order of fold changes is ambiguous in the peer's tables, for `evaluate_parity.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def read_de(path: Path) -> pd.DataFrame:
    """Read the peer's differential expression."""
    return pd.read_csv(
        path, keep_default_na=False, dtype={"target": str}, float_precision="round_trip"
    )


class Ties:
    """Where the order of fold changes is ambiguous, from the peer's tables.

    Parameters
    ----------
    real, pred
        The peer's CSVs.
    width
        Fold changes nearer than this share one place.
    """

    def __init__(self, real: Path, pred: Path, width: float) -> None:
        self._width = width
        self._sizes: list[dict[str, np.ndarray]] = []
        for path in (real, pred):
            frame = read_de(path) if path.exists() else pd.DataFrame({"target": []})
            sizes = {}
            for label, part in frame.groupby("target"):
                called = part["fdr"].astype(np.float32) < np.float32(0.05)
                size = part.loc[called, "log2_fold_change"].abs().astype(np.float32).to_numpy()
                sizes[str(label)] = np.sort(size)[::-1]
            self._sizes.append(sizes)

    def __call__(self, label: str, column: str) -> bool:
        """Whether an overlap or precision depends on the order within a tie."""
        if not column.startswith(("overlap_at_", "precision_at_")):
            return False
        lists = [sizes.get(label, np.empty(0)) for sizes in self._sizes]
        name = column.rpartition("_")[2]
        cut = len(lists[column.startswith("precision")])
        cut = cut if name == "N" else min(int(name), cut)
        for sizes in lists:
            if 0 < cut < len(sizes):
                inside, outside = sizes[cut - 1], sizes[cut]
                if inside == outside or inside - outside <= self._width:
                    return True
        return False
