"""The split as a reader wants to see it: counts per role, and who meets whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from statetx.core.records import verify
from statetx.data.store.plan import ROLES, Plan, read_plan
from statetx.reporting import figures
from statetx.reporting.page import split_picture as picture
from statetx.shared.labels import WITH_DOSES, Reading

MOST_PICTURES = 12
"""More pictures than this are a wall; the counts stay complete."""


@dataclass(frozen=True)
class RoleCount:
    """What one role of one split holds."""

    role: str
    lines: int
    drugs: int
    perturbations: int
    conditions: int
    cells: int | None


@dataclass(frozen=True)
class SplitCount:
    """One split in numbers."""

    name: str
    digest: str
    roles: list[RoleCount]
    reasons: list[tuple[str, str, int]]


@dataclass(frozen=True)
class Picture:
    """One drawing with its caption."""

    title: str
    svg: str
    roles: list[str]


def read_plans(plans: Mapping[str, Path]) -> dict[str, Plan]:
    """Read every plan."""
    return {name: read_plan(path) for name, path in plans.items()}


def counts(
    name: str, plan: Plan, cells: pd.Series | None, reading: Reading = WITH_DOSES
) -> SplitCount:
    """Count lines, drugs, perturbations, conditions and cells per role.

    Parameters
    ----------
    name
        Name of the split.
    plan
        Its plan.
    cells
        Number of cells by (line, perturbation), or None where they are unknown.
    reading
        How labels are read.
    """
    table = plan.table
    drugs = _drugs(table["perturbation"], reading)
    found = []
    for role in ROLES:
        own = table["role"] == role
        part = table[own]
        n_cells = None
        if cells is not None:
            keys = pd.MultiIndex.from_frame(part[["line", "perturbation"]])
            known = cells.reindex(keys)
            n_cells = None if known.isna().any() else int(known.sum())
        found.append(
            RoleCount(
                role,
                part["line"].nunique(),
                drugs[own].nunique(),
                part["perturbation"].nunique(),
                len(part),
                n_cells,
            )
        )
    grouped = table.groupby(["role", "reason"], sort=True, as_index=False).size()
    reasons = [
        (str(role), str(reason), int(n))
        for role, reason, n in grouped.itertuples(index=False)
        if str(reason).strip()
    ]
    return SplitCount(name, plan.digest, found, sorted(reasons, key=lambda r: ROLES.index(r[0])))


def cells_per_condition(manifest: Path) -> pd.Series | None:
    """Count perturbed cells by (line, perturbation), where the manifest has a table beside it."""
    path = manifest.parent / "conditions.parquet"
    if not path.is_file():
        return None
    table = pd.read_parquet(verify(path), columns=["line", "perturbation", "is_control", "n_cells"])
    table = table[~table["is_control"]]
    return table.groupby(["line", "perturbation"])["n_cells"].sum()


def pictures(
    plans: Mapping[str, Plan], cells: pd.Series | None, reading: Reading = WITH_DOSES
) -> list[Picture]:
    """Draw the splits: one picture of all folds where that says everything, else one per split.

    Parameters
    ----------
    plans
        Plans by name of the split.
    cells
        Number of cells by (line, perturbation): conditions without a role are then drawn as such.
    reading
        How labels are read.
    """
    folds = _folds(plans, reading) if len(plans) > 1 else None
    if folds is not None:
        grid, what = folds
        made = picture.of_frame(_ordered_columns(grid) if what == "drugs" else grid, "splits", what)
        text = f"Role of the {what} by split"
        return [Picture(f"Splits × {what}", _svg(made, "folds", text), made.present)]
    out = []
    for i, (name, plan) in enumerate(list(plans.items())[:MOST_PICTURES]):
        made = picture.of_plan(_with_left_out(plan.table, cells), reading)
        text = f"Role of every drug and dose in every cell line, split {name}"
        title = f"{name}: cell lines × drugs"
        out.append(Picture(title, _svg(made, f"split{i}", text), made.present))
    return out


def _svg(grid: picture.RoleGrid, name: str, text: str) -> str:
    return figures.svg(picture.draw(grid), name, text)


def _with_left_out(table: pd.DataFrame, cells: pd.Series | None) -> pd.DataFrame:
    if cells is None:
        return table
    pairs = cells.index.to_frame(index=False)[["line", "perturbation"]]
    merged = pairs.merge(table, on=["line", "perturbation"], how="outer")
    return merged.assign(role=merged["role"].fillna("none"))


def _drugs(perturbations: pd.Series, reading: Reading) -> pd.Series:
    found = reading.described(perturbations.unique())
    return perturbations.map({name: label.drug for name, label in found.items()})


def _one_role(roles: pd.Series) -> str:
    return str(roles.iloc[0]) if roles.nunique() == 1 else "mixed"


def _ordered_columns(grid: pd.DataFrame) -> pd.DataFrame:
    weights = [
        (-int((grid[column] == "test").sum()), -int((grid[column] == "val").sum()), column)
        for column in map(str, grid.columns)
    ]
    return grid[[column for _, _, column in sorted(weights)]]


def _folds(plans: Mapping[str, Plan], reading: Reading) -> tuple[pd.DataFrame, str] | None:
    """Draw splits × lines (or × drugs), if every line (or drug) has one role in each split."""
    for key, what in (("line", "cell lines"), ("drug", "drugs")):
        rows = {}
        for name, plan in plans.items():
            table = plan.table.assign(drug=_drugs(plan.table["perturbation"], reading))
            rows[name] = table.groupby(key)["role"].agg(_one_role)
        grid = pd.DataFrame(rows).T
        if not (grid == "mixed").any(axis=None):
            return grid, what
    return None
