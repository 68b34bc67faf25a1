"""Numbers and sentences as people read them. Used by the page and by the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

from statetx.evaluation.verdict.contract import Comparison, MetricInfo

MINUS = "\N{MINUS SIGN}"
NOTHING = "–"
"""Stands where a number is undefined or absent."""

GLYPHS = {"BETTER": "▲", "WORSE": "▼", "SAME": "=", "UNDECIDED": "?"}
"""A shape for every call, so that no colour has to be seen."""

ARROWS = {"higher": "↑", "lower": "↓"}


def direction(metric: MetricInfo) -> str:
    """Say which values of a metric are good: ``higher is better, 1 is perfect``."""
    perfect = "" if metric.perfect is None else f", {metric.perfect:g} is perfect"
    judged = metric.better in ARROWS
    return (f"{metric.better} is better" if judged else "diagnostic, never judged") + perfect


def badness(metric: MetricInfo, value: float) -> float:
    """Return a number that is lower for better values of a metric."""
    return value if metric.better == "lower" else -value


def scaled(value: float | None, exponent_: int) -> float | None:
    """Return a value in units of ``10**exponent_``; None stays None."""
    return None if value is None else value / 10**exponent_


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _size(values: Iterable[Any]) -> int | None:
    """Power of ten of the largest magnitude; None when all are zero or undefined."""
    sizes = [abs(value) for value in values if is_number(value) and value != 0]
    return math.floor(math.log10(max(sizes))) if sizes else None


def exponent(values: Iterable[Any]) -> int:
    """Power of ten in which a family of very small or very large numbers is best given, else 0."""
    size_ = _size(values)
    return size_ if size_ is not None and (size_ < -3 or size_ > 5) else 0


def power(exponent_: int) -> str:
    """Format ``10⁻⁴``; empty for 0."""
    if exponent_ == 0:
        return ""
    return "10" + str(exponent_).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def decimals(values: Iterable[Any]) -> int:
    """Return how many decimals a family of numbers deserves.

    Three significant digits of the largest magnitude (four from 1 to 2: a correlation of 1 among
    others keeps its thousandths), at most five decimals: a row of a table shares one format, so
    that its numbers can be compared by eye.
    """
    known = [abs(value) for value in values if is_number(value)]
    size_ = _size(known)
    if size_ is None:
        return 2
    return 3 if 1 <= max(known) < 2 else max(0, min(5, 2 - size_))


def number(value: Any, places: int = 3, *, sign: bool = False) -> str:
    """Format one number; a true minus sign, and a dash for what is undefined."""
    if not is_number(value):
        return NOTHING
    plus = "+" if sign else ""
    text = f"{value:{plus},.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-+")
    return text.replace("-", MINUS)


def interval(low: Any, high: Any, places: int = 3, *, sign: bool = False) -> str:
    """Format ``[low, high]``, or nothing when there is no interval."""
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{number(low, places, sign=sign)}, {number(high, places, sign=sign)}]"


def p_value(value: Any) -> str:
    """Format a p-value: ``p = 0.003`` or ``p < 0.001``."""
    if not is_number(value):
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def percent(value: Any) -> str:
    """Format a share as ``58 %``."""
    return f"{100 * value:.0f} %" if is_number(value) else NOTHING


def count(n: Any, singular: str, plural: str | None = None) -> str:
    """Format ``1 condition`` or ``24 conditions``."""
    word = singular if n == 1 else (plural or singular + "s")
    return f"{n:,} {word}" if is_number(n) else f"{NOTHING} {plural or singular + 's'}"


def size(n_bytes: Any) -> str:
    """Format a number of bytes."""
    if not is_number(n_bytes):
        return NOTHING
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"


def listing(names: Sequence[str], most: int = 8) -> str:
    """Join names with commas; the tail of a long list becomes a number."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names):,} in all)"


def stop(sentence: str) -> str:
    """End a sentence with exactly one full stop."""
    return sentence.rstrip(" .;") + "."


def sentence(
    comparison: Comparison, model: str, metric: str, better: str, exponent_: int = 0
) -> str:
    """Return the verdict on one model in one metric, in plain words.

    Parameters
    ----------
    comparison
        Model and baseline.
    model
        The model as the reader knows it (with its seed when there are several).
    metric
        Label of the metric.
    better
        ``higher`` or ``lower``.
    exponent_
        Power of ten in which the numbers are given.
    """
    if comparison.against is None:
        why = comparison.reason or "there is no baseline to compare with"
        return stop(f"{model} is UNDECIDED in {metric}: {why}")
    rival = f"the best baseline ({comparison.against})"
    opening = {
        "BETTER": f"{model} is BETTER than {rival} in {metric}",
        "WORSE": f"{model} is WORSE than {rival} in {metric}",
        "SAME": f"{model} is the SAME as {rival} in {metric}",
    }.get(comparison.call, f"{model} against {rival} is UNDECIDED in {metric}")
    text = f"{opening}: {evidence(comparison, better, exponent_)}"
    return stop(f"{text}; {comparison.reason}" if comparison.reason else text)


def difference(comparison: Comparison, exponent_: int = 0) -> tuple[str, str]:
    """Return a difference and its interval as texts, both in units of ``10**exponent_``.

    Two significant digits of the difference and one of half the interval, at least two decimals:
    an interval must not read as a point.
    """
    given = comparison.difference, comparison.low, comparison.high
    value, low, high = (scaled(number_, exponent_) for number_ in given)
    size_ = _size([value])
    places = 2 if size_ is None else max(2, 1 - size_)
    if low is not None and high is not None:
        width = _size([(high - low) / 2])
        places = places if width is None else max(places, -width)
    places = min(places, 5)
    return number(value, places, sign=True), interval(low, high, places, sign=True)


def evidence(comparison: Comparison, better: str = "higher", exponent_: int = 0) -> str:
    """Return difference, interval, wins and p as one phrase."""
    value, between = difference(comparison, exponent_)
    if between:
        value += f" {between}"
    if exponent_:
        value += f" × {power(exponent_)}"
    if better == "lower" and value != NOTHING:
        value += " (lower is better)"
    parts = [value if between else f"{value}, no interval"]
    if comparison.wins is not None:
        parts.append(f"wins {percent(comparison.wins)} of conditions")
    if comparison.p is not None:
        parts.append(p_value(comparison.p))
    return ", ".join(parts)
