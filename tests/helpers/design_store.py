"""The true design of Tahoe-100M as a store without cells: 65,943 conditions on plates, 100.6 M rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from statetx.data.store.plan import Plan

CONTROL = "DMSO_TF_0.0"


def design_conditions(grid: Path) -> pd.DataFrame:
    """Return ``Store.conditions`` for the published cell counts."""
    table = pd.read_parquet(grid).rename(columns={"cell_name": "line", "plate": "batch"})
    table["perturbation"] = [f"{d}_{c}" for d, c in zip(table["drug"], table["conc"], strict=True)]
    table = table.groupby(["line", "perturbation", "batch"], as_index=False)["n_cells"].sum()
    table["row_start"] = table.groupby("line")["n_cells"].cumsum() - table["n_cells"]
    return table.assign(is_control=table["perturbation"] == CONTROL)


class DesignStore:
    """What `SetTable` asks of a store."""

    def __init__(self, grid: Path) -> None:
        self.control = CONTROL
        self.conditions = design_conditions(grid)
        self._lines = {
            str(name): SimpleNamespace(name=name, conditions=part, run=lambda label: None)
            for name, part in self.conditions.groupby("line")
        }

    def line(self, name: str) -> SimpleNamespace:
        return self._lines[name]

    def plan(self) -> Plan:
        """A fifth of the drugs of ten lines is tested, everything else trains."""
        pairs = self.conditions.loc[~self.conditions["is_control"], ["line", "perturbation"]]
        pairs = pairs.drop_duplicates(ignore_index=True)
        drugs = pairs["perturbation"].str.rsplit("_", n=1).str[0]
        rng = np.random.default_rng(0)
        lines = rng.choice(pairs["line"].unique(), 10, replace=False)
        chosen = rng.choice(drugs.unique(), 76, replace=False)
        tested = pairs["line"].isin(lines) & drugs.isin(chosen)
        return Plan(pairs.assign(role=np.where(tested, "test", "train"), reason=""))
