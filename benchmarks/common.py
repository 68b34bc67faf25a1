"""What every benchmark does at its end: a CSV and one line of JSON."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def arguments(description: str) -> argparse.Namespace:
    """Parse ``--quick``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller, under 50 s")
    return parser.parse_args()


def finish(name: str, rows: list[dict[str, Any]], figures: dict[str, Any]) -> None:
    """Write the rows to ``benchmarks/results/<name>.csv`` and print the figures."""
    path = ROOT / "benchmarks" / "results" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(json.dumps({"benchmark": name, **figures}))
