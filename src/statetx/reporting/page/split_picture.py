"""The picture of a split: who meets whom in which role, doses as parts of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from statetx.reporting import figures
from statetx.shared.labels import WITH_DOSES, Reading

MOST_ACROSS = 90
"""More drugs than this run down the picture, where their names can be read, instead of across."""
WORDS = {"cell lines": "cell line", "drugs": "drug", "splits": "split"}


@dataclass(frozen=True)
class RoleGrid:
    """Roles of a split, to be drawn.

    Attributes
    ----------
    roles
        Role of every part of every cell, object [rows, columns, parts]; ``""``: there is nothing.
    rows, columns
        Their names.
    row_kind, column_kind
        What they are, in the plural.
    """

    roles: np.ndarray
    rows: list[str]
    columns: list[str]
    row_kind: str
    column_kind: str

    @property
    def present(self) -> list[str]:
        """The roles that occur, in the order of the legend."""
        found = set(self.roles.ravel().tolist())
        return [role for role in figures.ROLE_COLOURS if role in found]

    def turned(self) -> RoleGrid:
        """Return rows as columns."""
        turned = self.roles.transpose(1, 0, 2)
        return RoleGrid(turned, self.columns, self.rows, self.column_kind, self.row_kind)


def of_plan(table: pd.DataFrame, reading: Reading = WITH_DOSES) -> RoleGrid:
    """Return lines x drugs with a part for every dose; most held-out lines and drugs come first.

    Parameters
    ----------
    table
        ``line, perturbation, role``; role ``none`` where a condition is left out.
    reading
        How labels are read.
    """
    parsed = reading.described(table["perturbation"].unique())
    drug = table["perturbation"].map({p: found.drug for p, found in parsed.items()})
    dose = table["perturbation"].map({p: found.dose or 0.0 for p, found in parsed.items()})
    full = table.assign(drug=drug, dose=dose).sort_values(["dose", "perturbation"], kind="stable")
    lines, drugs = _ordered(full, "line"), _ordered(full, "drug")
    place = {name: i for i, name in enumerate(drugs)}, {name: i for i, name in enumerate(lines)}
    number = full.groupby(["line", "drug"]).cumcount().to_numpy()
    many = full.groupby(["line", "drug"])["role"].transform("size").to_numpy()
    parts = int(many.max())
    roles = np.full((len(lines), len(drugs), parts), "", dtype=object)
    row, column = full["line"].map(place[1]).to_numpy(), full["drug"].map(place[0]).to_numpy()
    for part in range(parts):  # a drug of fewer doses has wider parts
        here = number == part * many // parts
        roles[row[here], column[here], part] = full["role"].to_numpy(dtype=object)[here]
    return RoleGrid(roles, lines, drugs, "cell lines", "drugs")


def of_frame(grid: pd.DataFrame, rows: str, columns: str) -> RoleGrid:
    """Return a frame of single roles, NaN where there is nothing, as a grid."""
    values = grid.fillna("").to_numpy(dtype=object)[:, :, None]
    return RoleGrid(values, list(map(str, grid.index)), list(map(str, grid.columns)), rows, columns)


def _ordered(table: pd.DataFrame, column: str) -> list[str]:
    counts = pd.crosstab(table[column], table["role"]).reindex(
        columns=["test", "val"], fill_value=0
    )
    keys = zip(-counts["test"], -counts["val"], counts.index.astype(str), strict=True)
    return [name for _, _, name in sorted(keys)]


def draw(grid: RoleGrid, title: str | None = None) -> Figure:
    """Draw a grid of roles; a long side that would not fit across runs down.

    Parameters
    ----------
    grid
        What is drawn.
    title
        Title, with a legend below it, for a picture that stands alone; None: the page has both.
    """
    if len(grid.columns) > MOST_ACROSS and len(grid.rows) < len(grid.columns):
        grid = grid.turned()
    n_rows, n_columns = len(grid.rows), len(grid.columns)
    wide = float(np.clip(9.4 / n_columns, 0.15, 0.27))
    tall = float(np.clip(9.4 / n_rows, 0.115, 0.27))
    rows, columns = ([_short(name) for name in names] for names in (grid.rows, grid.columns))
    left = 0.3 + 0.078 * max(map(len, rows))
    top = 0.35 + 0.078 * max(map(len, columns)) + (0.0 if title is None else 0.75)
    width, height = max(left + n_columns * wide + 0.3, 3.4), top + n_rows * tall + 0.15
    with figures.style():
        figure = Figure(figsize=(width, height))
        box = (left / width, 0.12 / height, n_columns * wide / width, n_rows * tall / height)
        axes = figure.add_axes(box)
        _paint(axes, grid, min(wide, tall))
        axes.set_xticks(range(n_columns), columns, rotation=90)
        axes.set_yticks(range(n_rows), rows)
        axes.tick_params(axis="x", labelsize=8.5 if wide > 0.18 else 7)
        axes.tick_params(axis="y", labelsize=8.5 if tall > 0.18 else 7)
        if title is not None:
            figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=11)
            figure.legend(
                handles=[
                    Patch(color=figures.ROLE_COLOURS[role], label=figures.ROLE_WORDS[role])
                    for role in grid.present
                ],
                loc="upper left",
                bbox_to_anchor=(0.02 / width, 1 - 0.3 / height),
                ncols=5,
                fontsize=8.5,
            )
    return figure


def _paint(axes: Axes, grid: RoleGrid, smallest: float) -> None:
    n_rows, n_columns, parts = grid.roles.shape
    image = np.zeros((n_rows, n_columns * parts, 4))
    flat = grid.roles.reshape(n_rows, -1)
    for role, colour in figures.ROLE_COLOURS.items():
        image[flat == role] = (*to_rgb(colour), 1.0)
    extent = (-0.5, n_columns - 0.5, n_rows - 0.5, -0.5)
    axes.imshow(image, aspect="auto", interpolation="none", extent=extent)
    axes.set_xticks(np.arange(1, n_columns) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, n_rows) - 0.5, minor=True)
    axes.grid(which="minor", color=figures.PAPER, lw=1.2 if smallest > 0.16 else 0.6)
    axes.tick_params(which="both", length=0, pad=3, labelcolor=figures.INK)
    axes.xaxis.set_ticks_position("top")
    axes.spines[:].set_visible(False)


def write_picture(table: pd.DataFrame, path: Path, reading: Reading = WITH_DOSES) -> None:
    """Draw a plan into a file that stands alone, SVG or PNG by its suffix.

    Parameters
    ----------
    table
        ``line, perturbation, role``.
    path
        File to write.
    reading
        How labels are read.

    Raises
    ------
    ConfigError
        Another suffix.
    """
    grid = of_plan(table, reading)
    doses = " (a part per dose)" if grid.roles.shape[2] > 1 else ""
    title = f"{len(grid.rows)} cell lines × {len(grid.columns)} drugs{doses}"
    figures.save(draw(grid, title), path)


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
