"""Small tables of conditions, and a store that is just such a table: all that splits need."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from statetx.data.store.layout import FORMAT
from statetx.shared.labels import parse

CONTROL = "DMSO_TF_00"


def conditions_of(
    lines: list[str],
    drugs: list[str],
    doses: tuple[float, ...] = (0.5, 5.0),
    missing: tuple[tuple[str, str], ...] = (),
    batches: tuple[str, ...] = ("p1", "p2"),
) -> pd.DataFrame:
    """Return a table like ``Store.conditions``: every line x drug x dose x batch, and controls."""
    rows = []
    for line in lines:
        start = 0
        labels = sorted([f"{drug}_{dose:g}" for drug in drugs for dose in doses] + [CONTROL])
        for label in labels:
            if (line, label) in missing:
                continue
            for batch in batches:
                parsed = parse(label)
                n = 50 if label == CONTROL else 10
                drug = CONTROL if label == CONTROL else parsed.drug
                dose = None if label == CONTROL else parsed.dose
                rows.append((line, label, drug, dose, "", batch, label == CONTROL, start, n))
                start += n
    names = ["line", "perturbation", "drug", "dose", "unit", "batch"]
    return pd.DataFrame(rows, columns=[*names, "is_control", "row_start", "n_cells"])


def store_of(conditions: pd.DataFrame, directory: Path, dataset: str = "demo") -> Path:
    """Write a store without cells."""
    directory.mkdir(parents=True)
    counts = conditions.groupby("line")["n_cells"].sum()
    manifest = {
        "format": FORMAT,
        "dataset": dataset,
        "control_pert": CONTROL,
        "control_aliases": ["DMSO_TF"],
        "lines": [{"name": line, "n_cells": int(n)} for line, n in counts.items()],
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    conditions.to_parquet(directory / "conditions.parquet", index=False)
    return directory
