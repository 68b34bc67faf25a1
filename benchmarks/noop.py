"""How long a finished road takes to say that there is nothing to be done.

    python benchmarks/noop.py [--quick]

Runs the tiny road in a copy of the project, then calls snakemake again, several times.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, arguments, finish

sys.path.insert(0, str(ROOT / "tests" / "workflow"))
from road import copy_project


def main() -> None:
    """Time repeated calls."""
    repeats = 2 if arguments(__doc__ or "").quick else 5
    command = [sys.executable, "-m", "snakemake", "--cores", "all"]
    command += ["--configfile", "config/test/tiny.yaml"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = copy_project(Path(folder))
        subprocess.run(command, cwd=home, check=True, capture_output=True)
        for repeat in range(repeats):
            begin = time.perf_counter()
            done = subprocess.run(command, cwd=home, check=True, capture_output=True, text=True)
            rows.append({"repeat": repeat, "wall_s": round(time.perf_counter() - begin, 2)})
            if "Nothing to be done" not in done.stdout + done.stderr:
                raise SystemExit("the road was not finished:\n" + done.stderr)
    walls = sorted(row["wall_s"] for row in rows)
    finish("noop", rows, {"repeats": repeats, "min_s": walls[0], "max_s": walls[-1]})


if __name__ == "__main__":
    main()
