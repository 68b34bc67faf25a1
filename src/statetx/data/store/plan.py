"""The plan: a small table that gives every condition a role (train, val or test)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from statetx.core.digests import digest
from statetx.core.errors import ResultsError
from statetx.core.records import verify
from statetx.core.writes import whole

ROLES = ("train", "val", "test")
COLUMNS = ("line", "perturbation", "role", "reason")


@dataclass(frozen=True)
class Plan:
    """Conditions and their roles.

    Attributes
    ----------
    table
        One row per condition, sorted: ``line``, ``perturbation``, ``role``, ``reason``. Controls
        are not listed.
    controls
        ``shared``: the controls of a line serve all three roles; ``partition``: each serves one.
    """

    table: pd.DataFrame
    controls: str = "shared"

    @property
    def digest(self) -> str:
        """Digest of roles and controls, without the reasons."""
        roles = self.table[["line", "perturbation", "role"]].to_numpy().tolist()
        return digest(roles if self.controls == "shared" else [self.controls, roles])

    def lines(self, role: str) -> list[str]:
        """Return the sorted lines that have conditions of `role`."""
        return sorted(self.table.loc[self.table["role"] == role, "line"].unique())

    def perturbations(self, role: str, line: str | None = None) -> list[str]:
        """Return the sorted perturbations of `role`, of one line or of all lines."""
        chosen = self.table["role"] == role
        if line is not None:
            chosen &= self.table["line"] == line
        return sorted(self.table.loc[chosen, "perturbation"].unique())

    def conditions(self, role: str) -> list[tuple[str, str]]:
        """Return the sorted (line, perturbation) pairs of `role`."""
        rows = self.table[self.table["role"] == role]
        return sorted(zip(rows["line"], rows["perturbation"], strict=True))


def write_plan(table: pd.DataFrame, path: str | Path, controls: str = "shared") -> None:
    """Write a plan, sorted, so that equal plans give equal bytes.

    Parameters
    ----------
    table
        One row per condition with the columns `COLUMNS`.
    path
        File to write, whole or not at all.
    controls
        ``shared`` or ``partition``. ``partition`` is stored in the metadata of the table.
    """
    ordered = table[list(COLUMNS)].sort_values(["line", "perturbation"], ignore_index=True)
    ordered = ordered.astype(str)
    if controls != "shared":
        ordered.attrs = {"controls": controls}
    with whole(path) as part:
        ordered.to_parquet(part, index=False)


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises
    ------
    ResultsError
        The file is missing or is not a plan.
    """
    try:
        table = pd.read_parquet(verify(path))
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"cannot read the plan: {error}", where=path, fix="run the split stage again"
        ) from error
    if list(table.columns) != list(COLUMNS) or not set(table["role"]) <= set(ROLES):
        raise ResultsError(
            "this table is not a plan", where=path, fix=f"expected the columns {', '.join(COLUMNS)}"
        )
    controls = table.attrs.pop("controls", "shared")
    return Plan(table, controls)
