"""Recognition of earlier outputs by their content: ``--force`` replaces only these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def is_prediction(path: Path) -> bool:
    """Return whether `infer` or `predict` wrote an h5ad file."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            content = json.loads(file["uns/statetx"].asstr()[()])
    except (OSError, KeyError, ValueError, TypeError, AttributeError):
        return False
    return isinstance(content, dict) and {"model", "checkpoint", "stage"} <= content.keys()


def is_model(path: Path) -> bool:
    """Return whether `train` or `import` wrote a directory."""
    content = _json(path / "model.json")
    keys = {"format", "kind", "files", "checkpoints"}
    return isinstance(content, dict) and keys <= content.keys()


def is_lint_report(path: Path) -> bool:
    """Return whether `lint` wrote a JSON file: a single report, or one report per data set."""
    content = _json(path)
    if not isinstance(content, dict) or not content:
        return False
    reports = [content] if "findings" in content else list(content.values())
    keys = {"format", "errors", "warnings", "findings", "roles", "lines"}
    return all(isinstance(report, dict) and keys <= report.keys() for report in reports)


def is_picture(path: Path) -> bool:
    """Return whether `lint` drew an SVG or PNG file."""
    from statetx.reporting.figures import MADE_BY

    with open(path, "rb") as file:
        head = file.read(4096)
    return head.startswith((b"\x89PNG", b"<?xml")) and MADE_BY.encode() in head


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
