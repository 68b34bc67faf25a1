"""Runs the workflow in a copy of the project, as a user in a fresh clone would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forks

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "workflow", "profiles", "config", "envs", "src")


def copy_project(home: Path) -> Path:
    """Copy what a run needs."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(
                source, home / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            shutil.copy2(source, home / part)
    return home


def run(home: Path, *arguments: str, code: int | None = 0, **env: str) -> str:
    """Run a program of this environment in `home` with the copied library; return its output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home / "src"), "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert code is None or done.returncode == code, done.stdout
    return done.stdout


def snakemake(
    home: Path,
    *arguments: str,
    code: int | None = 0,
    config: str = "test/tiny.yaml",
    fork: bool = False,
) -> str:
    """Run snakemake with one of the shipped configurations; `fork` is faster where no job starts."""
    # Beside another worker's jobs, two threads of a small training mostly wait for each other.
    command = ["--configfile", f"config/{config}", "--set-threads", "train=1"]
    if "--workflow-profile" not in arguments:
        command += ["--cores", "2"]
    command += arguments
    if not fork:
        return run(home, "-m", "snakemake", *command, code=code)
    ended, text = forks.snakemake(home, *command)
    assert code is None or ended == code, text
    return text


def would_run(home: Path, *arguments: str, config: str = "test/tiny.yaml") -> dict[str, int]:
    """Return how often each rule would run, target rules left out."""
    text = snakemake(home, "--dry-run", *arguments, config=config, fork=True)
    if "Nothing to be done" in text:
        return {}
    table = text.split("Job stats:")[1].split("\n\n")[0]
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE))
    return {
        name: int(n)
        for name, n in jobs.items()
        if name not in ("all", "total") and "_all" not in name
    }


def edit(path: Path, old: str, new: str) -> None:
    """Replace `old`, which must be there, in a file."""
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1))
