"""Parsing of perturbation labels: names, numbers, units, tuples, formats."""

from __future__ import annotations

import ast
import math
import re
import struct
import unicodedata
import warnings
from functools import cache

Part = tuple[str, float | None, str]
"""Name, dose and unit of one perturbation in a label, as written."""

LONGEST = 4096
"""Most characters of a label that is parsed as a tuple; a longer label is a name."""
DEEPEST = 6
"""Most levels of nested brackets in a label that is parsed as a tuple."""

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+|0,[0-9]+|[0-9]+,[0-9]{1,2})(?:[eE][-+]?[0-9]+)?"
_UNIT = r"[^\W\d_]+(?:/[^\W\d_]+)?|%"
FORMAT = "{drug}_{dose}{unit}"
"""Default format of labels with a dose."""

_PLUS_IN_NAME = re.compile(r"(^|[(\[-])\s*\+|\+\s*($|[)\],-])")
"""A plus that does not join two names, as in (+)-Catechin."""
_NUMPY = re.compile(r"(?:float|int|uint)(?:_|[0-9]+)?|str_?|bytes_?|array|Decimal")
"""Functions that wrap a value in the text of a tuple, such as ``np.float64(0.5)``."""

UM = {"": 1.0, "uM": 1.0, "μM": 1.0, "um": 1.0, "nM": 1e-3, "nm": 1e-3, "pM": 1e-6}
UM |= {"mM": 1e3, "M": 1e6}
"""Factors that convert a concentration to uM, by unit in `normal` form; no unit means uM."""


def normal(text: str) -> str:
    """Return the normal form of a name: NFC, Greek mu for the micro sign, single blanks, stripped.

    NFKC is not used, because it would make one drug of ``X²`` and ``X2``. Of the compatibility
    forms, only the micro sign is replaced, which some keyboards write as Greek mu. Characters
    without width are removed.

    Parameters
    ----------
    text
        The name.
    """
    seen = text.replace("\u200b", "").replace("\ufeff", "").replace("\u00b5", "\u03bc")
    return " ".join(unicodedata.normalize("NFC", seen).split())


def number(text: str) -> float | None:
    """Return the number that a text writes, or None.

    ``0.50``, ``.5``, ``5.``, ``5e-1`` and ``0,5`` are numbers. A comma is a decimal sign only
    before one or two digits or after a single 0. ``1,000`` may be one or a thousand, so it is not a
    number.

    Parameters
    ----------
    text
        The text.
    """
    if not re.fullmatch(_NUMBER, text.strip()):
        return None
    value = float(text.strip().replace(",", "."))
    return value if math.isfinite(value) else None


@cache
def pattern(written: str = FORMAT) -> re.Pattern[str]:
    """Return the regular expression of a format, with groups ``drug``, ``dose`` and ``unit``.

    Parameters
    ----------
    written
        Format such as ``{drug}_{dose}{unit}``.

    Raises
    ------
    ValueError
        The format does not contain ``{drug}`` and ``{dose}`` once each, or contains other braces.
    """
    pieces = re.split(r"(\{[^{}]*\})", written)
    names = [piece[1:-1] for piece in pieces[1::2]]
    if sorted(set(names) & {"drug", "dose"}) != ["dose", "drug"] or len(set(names)) < len(names):
        raise ValueError(f"{written!r} must contain {{drug}} and {{dose}} once each")
    strange = sorted({*names} - {"drug", "dose", "unit"})
    if strange or any(mark in "".join(pieces[::2]) for mark in "{}"):
        raise ValueError(f"{written!r} may contain {{drug}}, {{dose}} and {{unit}} only")
    groups = {
        "drug": r"(?P<drug>.+)",
        "dose": rf"\s*(?P<dose>{_NUMBER})",
        "unit": rf"(?:\s*(?P<unit>{_UNIT}))?",
    }
    text = "".join(
        groups[piece[1:-1]] if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)
    )
    return re.compile(rf"{text}\s*", re.DOTALL)


def dosed(raw: str, written: re.Pattern[str]) -> Part | None:
    """Return name, dose and unit of a label, or None if it does not match the format.

    Parameters
    ----------
    raw
        The label.
    written
        The format as `pattern` returns it.
    """
    found = written.fullmatch(raw) or written.fullmatch(unicodedata.normalize("NFC", raw))
    if found is None:
        return None
    dose = number(found["dose"])
    return None if dose is None else (found["drug"], dose, found.groupdict().get("unit") or "")


def joined(raw: str) -> list[str]:
    """Return the names that ``+`` joins in a label, as written; the label itself if it joins none.

    Parameters
    ----------
    raw
        The label.
    """
    return [raw] if _PLUS_IN_NAME.search(raw) else raw.split("+")


def in_um(dose: float, unit: str) -> tuple[float, str]:
    """Return a dose in uM and an empty unit; a dose that is not a concentration keeps its unit.

    Parameters
    ----------
    dose
        The dose in `unit`.
    unit
        The unit as written; empty means uM.
    """
    seen = normal(unit)
    factor, dose = UM.get(seen), _short(dose)
    return (dose, seen) if factor is None else (float(f"{dose * factor:.12g}"), "")


def _short(dose: float) -> float:
    """Return 0.2 for 0.20000000298, which is 0.2 as float32; return other doses unchanged."""
    short = float(f"{dose:.7g}")
    if short == dose or not 1e-30 < short < 1e30:
        return dose
    (narrow,) = struct.unpack("f", struct.pack("f", short))
    return short if math.isclose(narrow, dose, rel_tol=1e-10) else dose


# ---------------------------------------------------------------------------------------------
# tuples: [('Drug', 0.5, 'uM')] as Python, numpy and JSON write it


def tuples(raw: str) -> list[Part]:
    """Return the parts of a label that writes one or more tuples (drug, dose, unit), else [].

    Lists count as tuples, a single tuple need not be in a list, and values may be wrapped as numpy
    writes them, ``np.float64(0.5)``. The text is parsed, never executed. A text longer than
    `LONGEST` or nested more deeply than `DEEPEST` is not a tuple.

    Parameters
    ----------
    raw
        The label.
    """
    text = raw.strip()
    if text[-1:] not in ("]", ")") or len(text) > LONGEST or not ("'" in text or '"' in text):
        return []
    if _depth(text) > DEEPEST:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in names
            value = _value(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return []
    rows = (value,) if _part(value) else value
    if not isinstance(rows, tuple) or not rows:
        return []
    parts = [_part(row) for row in rows]
    return [part for part in parts if part] if all(parts) else []


def _depth(text: str) -> int:
    depth = most = 0
    for mark in text:
        depth += (mark in "([") - (mark in ")]")
        most = max(most, depth)
    return most


def _value(node: ast.expr) -> object:
    """Return the value of a literal; lists become tuples, numpy's wrappers are removed."""
    if isinstance(node, ast.Constant):
        return node.value.decode() if isinstance(node.value, bytes) else node.value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.Call) and len(node.args) == 1:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if _NUMPY.fullmatch(name):
            return _value(node.args[0])
    raise ValueError("not a literal")


def _part(value: object) -> Part | None:
    """Return a (drug, dose, unit) tuple, or None; the dose may be a number, its text, or None."""
    if not isinstance(value, tuple) or len(value) != 3:
        return None
    name, dose, unit = value
    if not isinstance(name, str) or not isinstance(unit, str | None) or isinstance(dose, bool):
        return None
    if dose is None:
        return name, None, ""
    if isinstance(dose, int | float):
        dose = str(float(dose))
    found = number(dose) if isinstance(dose, str) else None
    return None if found is None else (name, found, unit or "")
