"""Figures as inline SVG: real text, colours that follow the page, equal bytes for equal inputs.

Inks are drawn in sentinel colours which become CSS variables of the page, so one figure serves
light, dark and print. Data colours are those of Okabe & Ito (2008), apart for every common kind of
colour vision; no figure relies on colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, NullFormatter

from statetx.core.errors import ConfigError
from statetx.core.writes import whole
from statetx.evaluation.verdict.contract import MetricInfo
from statetx.reporting import numbers as words
from statetx.reporting.verdict_rows import Column, exponent
from statetx.reporting.verdict_view import VerdictView

MADE_BY = "statetx"
"""Stands in the metadata of pictures that are files of their own."""

INK, SOFT, HAIR, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
BLUE = "#0072b2"
_VARIABLES = {INK: "--ink", SOFT: "--soft", HAIR: "--hair", PAPER: "--paper", BLUE: "--blue"}

SKY, ORANGE, VERMILLION, GREEN = "#56b4e9", "#e69f00", "#d55e00", "#009e73"
PURPLE = "#cc79a7"

ROLE_COLOURS = {
    "train": "#b9d7ea",
    "val": ORANGE,
    "test": BLUE,
    "mixed": PURPLE,
    "none": "#8a8a8a",
}
"""Pale, middle, dark: the roles of a split stay apart in grey print."""

ROLE_WORDS = {
    "train": "train",
    "val": "validation",
    "test": "test",
    "mixed": "differs by dose",
    "none": "left out",
}

_MARKS: dict[str, dict[str, Any]] = {
    "floor": {"marker": "D", "facecolor": PAPER, "edgecolor": SOFT, "s": 30},
    "mean_response": {"marker": "o", "facecolor": PAPER, "edgecolor": ORANGE, "s": 36},
    "baseline": {"marker": "o", "facecolor": ORANGE, "edgecolor": ORANGE, "s": 36},
    "model": {"marker": "s", "facecolor": BLUE, "edgecolor": BLUE, "s": 44},
    "interpolated_duplicate": {"marker": "^", "facecolor": PAPER, "edgecolor": GREEN, "s": 44},
    "ceiling": {"marker": "^", "facecolor": GREEN, "edgecolor": GREEN, "s": 44},
}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "statetx",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # wide: what is measured in it fits in any reader's font
    "font.size": 9,
    "axes.edgecolor": HAIR,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def style(extra: dict[str, Any] | None = None) -> AbstractContextManager[None]:
    """Our look on top of matplotlib's own: a reader's matplotlibrc must not change the bytes."""
    return matplotlib.style.context(["default", {**_STYLE, **(extra or {})}])


def svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an inline SVG element.

    Parameters
    ----------
    figure
        What was drawn.
    name
        Prefix of every id, so that several figures can share one page.
    description
        What the figure shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with style():  # real text and steady ids are settings of the writing, not of the drawing
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"\n\s*\n", "\n", text)
    box = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', text)
    if box:  # points to CSS pixels; narrower screens shrink it
        width = float(box[1]) * 4 / 3
        size = f'style="width:{width:.0f}px" role="img" aria-labelledby="{name}-title"'
        text = text.replace(box[0], size, 1)
    escaped = description.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    head, _, rest = text.partition(">")
    return f'{head}><title id="{name}-title">{escaped}</title>{rest.strip()}'


def forest(view: VerdictView) -> str | None:
    """Dot plot of the headline metrics: references, baselines, models with intervals."""
    metrics = [metric for metric in view.metrics if metric.headline] or view.metrics[:1]
    metrics = [m for m in metrics if any(_point(c, m)[0] is not None for c in view.columns)]
    if not metrics:
        return None
    across = min(2, len(metrics))
    down = -(-len(metrics) // across)
    longest = max(len(column.title) for column in view.columns)
    left = min(2.6, 0.2 + 0.075 * longest)
    gap = 0.85  # room for the numbers right of a panel
    panel = (0.27 * len(view.columns), (10.9 - left - 2 * gap) / 2 if across == 2 else 5.0)
    width = left + across * (panel[1] + gap)
    height = down * (panel[0] + 0.95)
    with style():
        figure = Figure(figsize=(width, height))
        for i, metric in enumerate(metrics):
            row, column = divmod(i, across)
            x = left + column * (panel[1] + gap)
            y = height - (row + 1) * (panel[0] + 0.95) + 0.55
            box = (x / width, y / height, panel[1] / width, panel[0] / height)
            _forest_panel(figure.add_axes(box), view, metric, column == 0)
        names = ", ".join(metric.label for metric in metrics)
        return svg(figure, "forest", f"Floor, baselines, models and ceiling in {names}")


def _point(
    column: Column, metric: MetricInfo, power: int = 0
) -> tuple[float | None, float | None, float | None]:
    """Mean, low and high in units of ``10**power``; None where undefined."""
    value = column.metrics.get(metric.name)
    if value is None:
        return None, None, None
    mean, low, high = (words.scaled(v, power) for v in (value.mean, value.low, value.high))
    return mean, low, high


def _forest_panel(axes: Axes, view: VerdictView, metric: MetricInfo, names: bool) -> None:
    power = exponent(metric, view.columns)
    places = words.decimals([_point(c, metric, power)[0] for c in view.columns])
    best: list[float] = []
    for i, column in enumerate(view.columns):
        mean, low, high = _point(column, metric, power)
        value = axes.get_yaxis_transform()
        text = words.number(mean, places) if mean is not None else "undefined"
        weight = "bold" if column.role == "model" else "normal"
        axes.text(1.02, i, text, transform=value, va="center", fontsize=8.5, fontweight=weight)
        if mean is None:
            continue
        mark = _MARKS[column.role]
        if low is not None and high is not None:
            colour = mark["edgecolor"]
            axes.plot([low, high], [i, i], color=colour, lw=2.2, solid_capstyle="butt", zorder=2)
        axes.scatter([mean], [i], linewidths=1.4, zorder=3, **mark)
        if column.role == "ceiling":
            axes.axvline(mean, color=GREEN, lw=1, ls=(0, (4, 3)), zorder=1)
        if column.role == "baseline":
            best.append(mean)
    if best:
        edge = min(best, key=lambda mean: words.badness(metric, mean))
        axes.axvline(edge, color=ORANGE, lw=1, ls=(0, (1, 2)), zorder=1)
    axes.set_ylim(len(view.columns) - 0.4, -0.6)
    axes.set_yticks(range(len(view.columns)))
    axes.set_yticklabels([c.title for c in view.columns] if names else [])
    for tick, column in zip(axes.get_yticklabels(), view.columns, strict=True):
        tick.set_fontweight("bold" if column.role == "model" else "normal")
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color=HAIR, lw=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    hint = {"higher": "higher is better →", "lower": "← lower is better"}
    title = metric.label + (f", in {words.power(power)}" if power else "")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=7)
    axes.set_xlabel(hint.get(metric.better, words.direction(metric)), color=SOFT, fontsize=8.5)


# ---------------------------------------------------------------------------------------------
# training


def curves(runs: Sequence[tuple[str, pd.DataFrame, int | None]]) -> str | None:
    """Training and validation loss against step, one panel per run, chosen checkpoint marked.

    Parameters
    ----------
    runs
        (title, table with ``step`` and ``train_loss`` and/or ``val_loss``, chosen step or None).
    """
    if not runs:
        return None
    across = min(3, len(runs))
    down = -(-len(runs) // across)
    width, height = {1: 6.8, 2: 9.6, 3: 10.4}[across], 2.75
    with style({"ytick.labelcolor": SOFT, "ytick.major.size": 3}):
        figure = Figure(figsize=(width, height * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes, run in zip(grid.flat, runs, strict=False):
            _curve_panel(axes, *run)
        for axes in list(grid.flat)[len(runs) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("loss")
        return svg(figure, "curves", "Training and validation loss against step")


def _curve_panel(axes: Axes, title: str, table: pd.DataFrame, chosen: int | None) -> None:
    drawn = []
    if "train_loss" in table:
        train = table[["step", "train_loss"]].dropna()
        if len(train):
            thin = _thinned(train)
            noisy = len(thin) > 60
            axes.plot(*thin.T, color=SKY, lw=0.8 if noisy else 1.6, alpha=0.6 if noisy else 1)
            if noisy:
                smooth = pd.Series(thin[:, 1]).rolling(len(thin) // 25, center=True, min_periods=1)
                axes.plot(thin[:, 0], smooth.median(), color=BLUE, lw=1.6)
            axes.plot([], [], color=BLUE if noisy else SKY, lw=1.6, label="train")
            drawn.append(thin[:, 1])
    if "val_loss" in table:
        val = table[["step", "val_loss"]].dropna()
        if len(val):
            few = len(val) <= 40
            axes.plot(
                val["step"],
                val["val_loss"],
                color=VERMILLION,
                lw=1.6,
                ls=(0, (4, 1.5)),
                marker="o" if few else None,
                ms=3.5,
                label="validation",
            )
            drawn.append(val["val_loss"].to_numpy())
    if chosen is not None:
        axes.axvline(chosen, color=INK, lw=1, ls=(0, (1, 2)), label=f"chosen: step {chosen:,}")
    seen = np.concatenate(drawn) if drawn else np.array([])
    if len(seen) and seen.min() > 0 and seen.max() / seen.min() > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(color=HAIR, lw=0.5)
    axes.legend(fontsize=8, loc="best", handlelength=1.8)


def _thinned(curve: pd.DataFrame, most: int = 600) -> np.ndarray:
    """Means over equal runs of points: a long curve must not weigh megabytes."""
    points = curve.to_numpy(dtype=float)
    if len(points) <= most:
        return points
    return np.stack([part.mean(axis=0) for part in np.array_split(points, most)])


# ---------------------------------------------------------------------------------------------
# the split


def save(figure: Figure, path: Path) -> None:
    """Write a figure into a file of its own, on white, whole or not at all.

    Raises
    ------
    ConfigError
        The suffix is neither ``.svg`` nor ``.png``.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise ConfigError(f"cannot draw into {path.name!r}", where=path, fix="use .svg or .png")
    figure.set_facecolor("white")
    for text in figure.findobj(Text):
        text.set_color("#222222")
    for axes in figure.axes:
        axes.grid(which="minor", color="white", lw=0.6)
    # What drew it: `--force` replaces no other picture.
    metadata = {"Date": None, "Creator": MADE_BY} if kind == "svg" else {"Software": MADE_BY}
    with whole(path) as part, style():
        figure.savefig(part, format=kind, dpi=160, metadata=metadata)


def cividis(share: float) -> tuple[str, str]:
    """Return (background, text colour) of the cividis map at `share` in [0, 1], as CSS colours."""
    red, green, blue = matplotlib.colormaps["cividis"](float(np.clip(share, 0, 1)))[:3]
    # relative luminance, WCAG 2.1: black text above 0.18 keeps a contrast of at least 4.5
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    dark = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18
    code = "#" + "".join(f"{round(255 * c):02x}" for c in (red, green, blue))
    return code, "#000000" if dark else "#ffffff"
