"""The curves of a training as one picture, beside its table."""

from __future__ import annotations

import io

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TRAIN, VALIDATION = "#56b4e9", "#0072b2"
"""Pale and dark blue of Okabe & Ito (2008)."""
CONSTANT = "learning rate"
"""Not drawn where it never changes."""
PANELS: tuple[tuple[str, tuple[str, ...], float | None], ...] = (
    ("loss (energy distance in validation)", ("train_loss", "val_loss"), None),
    ("loss of the gene decoder", ("train_decoder_loss", "val_decoder_loss"), None),
    ("Pearson of deltas", ("val_pearson_delta",), 0.0),
    ("discrimination (0.5: chance)", ("val_discrimination",), 0.5),
    ("collapse ratio (0: collapsed)", ("val_collapse_ratio",), 1.0),
    ("gradient norm", ("gradient_norm",), None),
    (CONSTANT, ("lr",), None),
    ("pairs of cells per second", ("cells_per_second",), None),
    ("share of time waiting for cells", ("waiting",), None),
)
"""Title, columns of metrics.csv, and a level worth a line."""


def draw(metrics: str, best_step: int | None = None) -> str:
    """Return an SVG with one panel per measurement that was made.

    Parameters
    ----------
    metrics
        Text of ``metrics.csv``.
    best_step
        The step whose weights were kept as the best; marked in every panel.
    """
    table = pd.read_csv(io.StringIO(metrics))
    flat = table["lr"].nunique() < 2
    shown = [
        (title, [name for name in names if name in table and table[name].notna().any()], level)
        for title, names, level in PANELS
    ]
    shown = [panel for panel in shown if panel[1] and not (panel[0] == CONSTANT and flat)]
    rows = -(-len(shown) // 3)
    look = {"svg.fonttype": "none", "svg.hashsalt": "statetx", "font.size": 9}
    with matplotlib.style.context(["default", look]):
        figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
        for axes, panel in zip(figure.subplots(rows, 3, squeeze=False).flat, shown, strict=False):
            _panel(axes, table, *panel, best_step)
        for axes in figure.axes[len(shown) :]:
            axes.remove()
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _panel(
    axes: Axes,
    table: pd.DataFrame,
    title: str,
    names: list[str],
    level: float | None,
    best_step: int | None,
) -> None:
    for name in names:
        found = table[["step", name]].dropna()
        kind = "training" if name.startswith("train") else "validation"
        colour = TRAIN if kind == "training" else VALIDATION
        axes.plot(found["step"], found[name], color=colour, label=kind, lw=1.4)
    if level is not None:
        axes.axhline(level, color="#999999", lw=0.8, ls=":")
    if best_step is not None:
        axes.axvline(best_step, color="#e69f00", lw=1.0, ls="--")
    if "loss" in title or title == "gradient norm":
        axes.set_yscale("log")
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("step (dashed: kept as best)" if best_step is not None else "step")
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=8)
