"""Kills at random times: does a plain restart give the results of an undisturbed run?

    python benchmarks/kills.py [--quick] [--kills 50] [--seconds 3600] [--seed 0] [--resume]

Runs `snakemake --cores 2` on the tiny configuration in a copy of the project. At a random time SIGKILL,
SIGTERM or SIGINT goes to snakemake alone, to its process group, or to one of its descendants; then the same
command is started again. A run that comes to its end is compared with an undisturbed one and begun anew.

Counted are: results that differ; finished jobs that ran again; manual steps that snakemake asked for;
processes that are alive 5 s after the signal; what a finished run left behind. The time of each kill
depends on the machine, so a seed gives the same signals and delays, not the same states.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from common import ROOT, finish

sys.path.insert(0, str(ROOT / "tests" / "workflow"))
from road import copy_project

COMMAND = ("-m", "snakemake", "--cores", "2", "--configfile", "config/test/tiny.yaml")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("snakemake", "group", "descendant")
GRACE = 5.0
"""Seconds after which nothing that was signalled may be alive."""
LONGEST = 120.0
"""Seconds that snakemake may take to end, or a run to finish."""
EARLIEST = 1.0
"""Seconds between a start and its kill, at least; at most, what an undisturbed run takes."""
MANUAL = {
    "--unlock": "LockException|Directory cannot be locked",
    "--rerun-incomplete": "IncompleteFilesException|Incomplete files:|marked as incomplete",
}
"""Steps that snakemake asks a user for, and how it asks."""
COMPARED = ("*.csv", "*.json", "*.parquet", "*.safetensors", "*.npz", "*.txt", "*.toml", "*.h5ad")
TEMPORARY = (
    "results/**/.*",
    "results/*/pack/parts",
    "results/**/*.staged",
    ".state/train/*",
    ".state/pack/*",
)


class Project:
    """A copy of the project in which the tiny configuration runs."""

    def __init__(self, home: Path) -> None:
        self.home = copy_project(home)
        self.log = home / "snakemake.log"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start snakemake in a session of its own, its output in `log`."""
        environment = {**os.environ, "PYTHONPATH": str(self.home / "src"), "OMP_NUM_THREADS": "1"}
        with open(self.log, "wb") as handle:
            return subprocess.Popen(
                [sys.executable, *COMMAND, *more],
                cwd=self.home,
                env=environment,
                stdout=handle,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        """Return what the last start printed."""
        return self.log.read_text(errors="replace")

    def failure(self, run: subprocess.Popen[bytes]) -> str:
        """Return the end of what a failed start printed; empty: it did not fail."""
        return " ".join(self.said()[-400:].split()) if run.returncode else ""

    def jobs(self) -> tuple[set[str], set[str]]:
        """Return the outputs of the jobs that the last start began, and of those that it finished."""
        begun: dict[str, str] = {}
        for block in re.split(r"\n(?=\[|(?:local)?(?:rule|checkpoint) )", self.said()):
            number, output = re.search(r"jobid: (\d+)", block), re.search(r"output: (.+)", block)
            if number and output:
                begun[number[1]] = output[1].strip()
        done = re.findall(r"Finished jobid: (\d+)", self.said())
        return set(begun.values()), {begun[n] for n in done if n in begun}

    def digests(self) -> dict[str, str]:
        """Return the digest of every result; versions and times of a verdict do not count."""
        found = {}
        for pattern in COMPARED:
            for path in sorted((self.home / "results").rglob(pattern)):
                name = str(path.relative_to(self.home))
                if "/benchmarks/" in name or "/." in name:
                    continue
                data = path.read_bytes()
                if path.name == "verdict.json":
                    told = json.loads(data)
                    told.pop("provenance", None)
                    data = json.dumps(told, sort_keys=True).encode()
                found[name] = hashlib.sha256(data).hexdigest()
        return found

    def left(self) -> list[str]:
        """Return what a finished run left behind."""
        found = (path for pattern in TEMPORARY for path in self.home.glob(pattern))
        names = {str(path.relative_to(self.home)) for path in found}
        return sorted(name for name in names if not name.endswith(".snakemake_timestamp"))

    def clean(self) -> None:
        """Begin anew."""
        for name in ("results", ".state", ".snakemake", "logs"):
            subprocess.run(["rm", "-rf", str(self.home / name)], check=True)


def alive(session: int, known: list[psutil.Process]) -> list[psutil.Process]:
    """Return the running processes of a session, or among `known`."""
    found = {process.pid: process for process in known if process.is_running()}
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found[process.pid] = process
        except (ProcessLookupError, PermissionError):
            continue
    return [one for one in found.values() if _status(one) not in (psutil.STATUS_ZOMBIE, None)]


def _status(process: psutil.Process) -> str | None:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return None


def kill(
    run: subprocess.Popen[bytes], sign: signal.Signals, target: str, rng: random.Random
) -> dict[str, Any]:
    """Send a signal, wait for the end; say how long it took and what was alive after `GRACE`."""
    main = psutil.Process(run.pid)
    family = main.children(recursive=True)
    begin = time.monotonic()
    if target == "group":
        os.killpg(run.pid, sign)
    else:
        chosen = rng.choice(family) if target == "descendant" and family else main
        try:
            chosen.send_signal(sign)
        except psutil.NoSuchProcess:
            target = "descendant, gone"
    while run.poll() is None and time.monotonic() - begin < LONGEST:
        time.sleep(0.1)
    took = time.monotonic() - begin
    if target == "descendant":  # the others may go on as long as snakemake waits for them
        begin = time.monotonic()
    time.sleep(max(0.0, begin + GRACE - time.monotonic()))
    orphans = alive(run.pid, family) if run.poll() is not None else []
    names = [" ".join(one.cmdline()[:4])[-60:] for one in orphans if one.is_running()]
    return {"ended_s": round(took, 1), "orphans": len(orphans), "orphan": names[0] if names else ""}


def end(run: subprocess.Popen[bytes]) -> None:
    """End what was started here and still runs."""
    for process in alive(run.pid, []):
        process.kill()
    run.wait()


def undisturbed(project: Project) -> dict[str, str]:
    """Return the digests of a run that nobody disturbs."""
    run = project.start()
    if run.wait():
        raise SystemExit(project.said()[-3000:])
    return project.digests()


def asked(text: str) -> str:
    """Return the manual step that snakemake asks for; empty: none."""
    return next((step for step, how in MANUAL.items() if re.search(how, text)), "")


def started(
    project: Project, row: dict[str, Any], finished: set[str], seconds: float
) -> subprocess.Popen[bytes]:
    """Start plainly and wait; where snakemake asks for a manual step, note it, do it, start again.

    Counts the finished jobs that ran again; `finished` grows. The returned process runs if it took longer.
    """
    options: list[str] = []
    while True:
        run = project.start(*options)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(seconds)
        if run.returncode and (step := asked(project.said())) and step not in row["manual"]:
            row["manual"] += f" {step}"
            if step == "--unlock":
                project.start(step).wait()
            else:
                options.append(step)
            continue
        return run


def count(project: Project, row: dict[str, Any], finished: set[str]) -> None:
    """Count the finished jobs that the last start began again; `finished` grows."""
    begun, done = project.jobs()
    row["again"] += len({name for name in begun & finished if "/parts/" not in name})
    finished |= done


def one_kill(
    project: Project, number: int, seed: int, finished: set[str], latest: float
) -> dict[str, Any]:
    """Start, kill, and say what came of it."""
    rng = random.Random(f"kill {seed} {number}")
    sign, target = rng.choice(SIGNALS), rng.choice(TARGETS)
    delay = rng.uniform(EARLIEST, latest)
    row: dict[str, Any] = {"kill": number, "signal": sign.name, "target": target}
    row |= {"after_s": round(delay, 1), "manual": "", "again": 0, "ended_s": 0.0, "orphans": 0}
    row |= {"orphan": "", "over": False, "failed": "", "compared": False, "wrong": 0}
    row |= {"wrong_file": "", "left": 0, "left_file": ""}
    run = started(project, row, finished, delay)
    if run.poll() is None:
        row |= kill(run, sign, target, rng)
    else:
        row["over"], row["failed"] = run.returncode == 0, project.failure(run)
        row["target"] = "none"  # it ended first
    count(project, row, finished)
    end(run)
    return row


def complete(
    project: Project, row: dict[str, Any], finished: set[str], expected: dict[str, str]
) -> None:
    """Let a run come to its end, compare it and begin anew."""
    if not row["over"]:
        run = started(project, row, finished, 10 * LONGEST)
        row["failed"] = row["failed"] or project.failure(run)
        count(project, row, finished)
        end(run)
    now, left = project.digests(), project.left()
    wrong = sorted(name for name in expected if now.get(name) != expected[name])
    row |= {"compared": True, "wrong": len(wrong), "wrong_file": wrong[0] if wrong else ""}
    row |= {"left": len(left), "left_file": left[0] if left else ""}
    project.clean()
    finished.clear()


def killed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the starts that a signal reached before they ended."""
    return [row for row in rows if row["target"] in TARGETS]


def table(rows: list[dict[str, Any]]) -> str:
    """Return what was counted, by signal and target."""
    lines = [
        f"{'signal':8} {'target':11} kills  slow end  orphans  again  unlock  rerun-incomplete"
    ]
    for sign in (*(one.name for one in SIGNALS), "all"):
        for target in TARGETS if sign != "all" else ("",):
            some = [
                r
                for r in killed(rows)
                if sign == "all" or (r["signal"], r["target"]) == (sign, target)
            ]
            slow = sum(float(r["ended_s"]) > GRACE for r in some if r["target"] != "descendant")
            numbers = [
                len(some),
                slow,
                *(sum(int(r[key]) for r in some) for key in ("orphans", "again")),
            ]
            numbers += [sum(step in str(r["manual"]) for r in some) for step in MANUAL]
            lines.append(f"{sign:8} {target:11} " + "  ".join(f"{n:6}" for n in numbers))
    return "\n".join(lines)


def main() -> None:
    """Kill, restart, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=7200, help="begin no kill after them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the CSV of an earlier call"
    )
    options = parser.parse_args()
    kills = 3 if options.quick else options.kills
    name = "kills_quick" if options.quick else "kills"
    path = ROOT / "benchmarks" / "results" / f"{name}.csv"
    rows: list[dict[str, Any]] = []
    if options.resume and path.exists():
        with open(path, newline="") as handle:
            rows = list(csv.DictReader(handle))
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        first = undisturbed(project)
        project.clean()
        start = time.monotonic()
        second = undisturbed(project)
        latest = time.monotonic() - start
        unsteady = sorted(key for key in first if first[key] != second.get(key))
        print(
            f"{len(first)} files; differ between two undisturbed runs: {unsteady or 'none'}",
            flush=True,
        )
        expected = {key: value for key, value in first.items() if key not in unsteady}
        project.clean()
        finished: set[str] = set()
        last = False
        while not last:
            row = one_kill(project, len(rows), options.seed, finished, latest)
            rows.append(row)
            done = len(killed(rows))
            last = done >= kills or len(rows) >= 3 * kills
            last = last or time.monotonic() - begin > options.seconds
            if row["over"] or row["failed"] or done % 3 == 0 or last:
                complete(project, row, finished, expected)
            print(
                {key: value for key, value in row.items() if value not in ("", 0, False)},
                flush=True,
            )
    print(table(rows))
    sums = {
        key: sum(int(row[key]) for row in rows) for key in ("wrong", "again", "orphans", "left")
    }
    manual = {step: sum(step in str(row["manual"]) for row in rows) for step in MANUAL}
    failed = sum(bool(row["failed"]) for row in rows)
    finish(
        name,
        rows,
        {"kills": len(rows), **sums, "manual": manual, "failed": failed, "unsteady": unsteady},
    )


if __name__ == "__main__":
    main()
