"""Try damaged inputs on everything that reads a file.

    python tests/fuzz/run.py [--seconds 1200] [--inputs N] [--kind NAME] [--seed N]

Prints a table (inputs tried per kind, faults, rate) and every sort of fault once, with the command
that makes it again; the damaged inputs lie in ``.state/fuzz``. Exits with 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

# Imported once, before the processes fork that need them.
import anndata  # noqa: F401
import cell_files
import contract_files
import engine
import pyarrow.dataset  # noqa: F401
import resumed_files
import samples
import split_files
import state_files
import table_files
import transformers  # noqa: F401
from engine import Fault, Kind, Tally

import statetx.evaluation.standalone.evaluate_files
import statetx.evaluation.verdict.verdict
import statetx.inference.import_run
import statetx.inference.infer
import statetx.reporting.page.page
import statetx.splits.lint_file  # noqa: F401

KEEP = Path(".state/fuzz")
STARTING = 0.5
"""Seconds that a kind takes before its first damaged input, about."""


def prepare(home: Path, name: str | None) -> list[tuple[Kind, Path]]:
    """Make the undamaged inputs of all kinds, or of some, below `home`, in a process of its own."""
    tree, error = home / "tree", home / "error.txt"
    kinds = [*cell_files.kinds(tree), *table_files.kinds(), *state_files.kinds()]
    kinds += split_files.kinds()
    kinds += [*contract_files.kinds(tree), *resumed_files.kinds(tree)]
    chosen = [kind for kind in kinds if kind.name == name]
    chosen = chosen or [kind for kind in kinds if (name or "") in kind.name]
    if not chosen:
        raise SystemExit(f"no kind {name!r}: {', '.join(kind.name for kind in kinds)}")

    def make() -> None:
        engine.silence()
        try:
            tree.mkdir()
            samples.results_tree(tree)
            for kind in chosen:
                place = home / kind.name
                place.mkdir()
                kind.make(place)
        except BaseException:
            error.write_text(traceback.format_exc())

    # Compiled loops start threads, and a process with threads cannot be forked: a child has them.
    child = multiprocessing.get_context("fork").Process(target=make)
    child.start()
    child.join()
    if error.exists():
        raise SystemExit(f"the undamaged inputs could not be made\n{error.read_text()}")
    return [(kind, home / kind.name) for kind in chosen]


def told(fault: Fault) -> str:
    """Return a fault as text, with the command that makes it again."""
    again = f"python tests/fuzz/run.py --kind {fault.kind} --seed {fault.seed} --inputs 1"
    return f"{fault}\n    again: {again}"


def table(tallies: list[Tally]) -> str:
    """Return inputs, outcomes and rate of every kind as text."""
    names = [
        "kind",
        "inputs",
        "refused",
        "equal",
        "other",
        "traceback",
        "wrong",
        "slow, big, crash",
    ]
    rows = [[*names, "inputs/s"]]
    total = Tally("all")
    for tally in tallies:
        total.outcomes += tally.outcomes
        total.seconds += tally.seconds
    for tally in [*tallies, total]:
        found = tally.outcomes
        rest = tally.failed - found["traceback"] - found["wrong"]
        shown = [found[name] for name in ("refused", "equal", "other", "traceback", "wrong")]
        rate = tally.tried / max(tally.seconds, 1e-9)
        rows.append([tally.kind, *map(str, [tally.tried, *shown, rest]), f"{rate:.0f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> None:
    """Run the kinds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200, help="for all kinds together")
    parser.add_argument("--inputs", type=int, default=1 << 40, help="at most, of every kind")
    parser.add_argument("--kind", help="only kinds whose name holds this")
    parser.add_argument("--seed", type=int, default=0, help="first seed; alone with --inputs 1")
    parser.add_argument("--json", type=Path, help="write outcomes and faults here")
    options = parser.parse_args()
    begin = time.monotonic()
    shutil.rmtree(KEEP, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        inputs = prepare(Path(folder), options.kind)
        seeds = range(options.seed, options.seed + options.inputs)
        left = options.seconds - (time.monotonic() - begin)
        share = max(left / len(inputs) - STARTING, 0.5)
        jobs = [engine.Job(kind, place, seeds, share) for kind, place in inputs]
        tallies = engine.run(jobs, KEEP, lambda fault: print(told(fault), flush=True))
    print(table(tallies))
    if options.json:
        faults = {t.kind: [told(fault) for fault in t.faults.values()] for t in tallies}
        tried = {tally.kind: tally.tried for tally in tallies}
        options.json.write_text(json.dumps({"faults": faults, "tried": tried}))
    raise SystemExit(any(tally.failed for tally in tallies))


if __name__ == "__main__":
    main()
