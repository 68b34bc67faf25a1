"""Wall time, CPU time and peak memory of every stage.

    python benchmarks/stages.py            the demo (minutes)
    python benchmarks/stages.py --quick    the tiny configuration of the tests

Runs the road in a copy of the project and reads Snakemake's own benchmark files.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, arguments, finish

sys.path.insert(0, str(ROOT / "tests" / "workflow"))
from road import copy_project


def main() -> None:
    """Run the road once and print what each stage took."""
    quick = arguments(__doc__ or "").quick
    config = "config/test/tiny.yaml" if quick else "config/config.yaml"
    with tempfile.TemporaryDirectory() as folder:
        home = copy_project(Path(folder))
        begin = time.perf_counter()
        command = [sys.executable, "-m", "snakemake", "--cores", "all", "--configfile", config]
        subprocess.run(command, cwd=home, check=True, capture_output=True)
        wall = time.perf_counter() - begin
        rows = [read(path) for path in sorted(home.glob("results/**/benchmarks/**/*.tsv"))]
    for row in rows:
        print(
            "{job:<48} {wall_s:>8.1f} s wall {cpu_s:>8.1f} s CPU {peak_mb:>8.0f} MB".format(**row)
        )
    figures = {
        "config": config,
        "wall_s": round(wall, 1),
        "cpu_s": round(sum(row["cpu_s"] for row in rows), 1),
        "peak_mb": round(max(row["peak_mb"] for row in rows)),
        "jobs": len(rows),
    }
    finish("stages_quick" if quick else "stages", rows, figures)


def read(path: Path) -> dict[str, float | str]:
    """Read one benchmark file of Snakemake; `-` (job too short to sample) counts as 0."""
    with open(path, encoding="utf-8") as handle:
        row = next(csv.DictReader(handle, delimiter="\t"))
    numbers = {
        key: float(value) if value not in ("-", "NA", "") else 0.0
        for key, value in row.items()
        if key != "h:m:s"
    }
    parts = path.parts[path.parts.index("results") + 1 :]
    job = "/".join(part for part in parts if part != "benchmarks").removesuffix(".tsv")
    return {
        "job": job,
        "wall_s": numbers["s"],
        "cpu_s": numbers["cpu_time"],
        "peak_mb": numbers["max_rss"],
    }


if __name__ == "__main__":
    main()
