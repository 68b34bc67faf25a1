"""Earlier outputs of the commands, recognised by what they say: only these does ``--force`` replace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def is_prediction(path: Path) -> bool:
    """Tell whether `infer` or `predict` wrote an h5ad."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            said = json.loads(file["uns/statetx"].asstr()[()])
    except (OSError, KeyError, ValueError, TypeError, AttributeError):
        return False
    return isinstance(said, dict) and {"model", "checkpoint", "stage"} <= said.keys()


def is_model(path: Path) -> bool:
    """Tell whether `train` or `import` wrote a directory."""
    said = _json(path / "model.json")
    return isinstance(said, dict) and {"format", "kind", "files", "checkpoints"} <= said.keys()


def is_lint_report(path: Path) -> bool:
    """Tell whether `lint` wrote a JSON file: one report, or one for each data set."""
    said = _json(path)
    if not isinstance(said, dict) or not said:
        return False
    reports = [said] if "findings" in said else list(said.values())
    keys = {"format", "errors", "warnings", "findings", "roles", "lines"}
    return all(isinstance(one, dict) and keys <= one.keys() for one in reports)


def is_picture(path: Path) -> bool:
    """Tell whether `lint` drew an SVG or PNG file."""
    from statetx.reporting.figures import MADE_BY

    with open(path, "rb") as file:
        head = file.read(4096)
    return head.startswith((b"\x89PNG", b"<?xml")) and MADE_BY.encode() in head


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
