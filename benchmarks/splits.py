"""Seconds and memory of every generator with its lint, on the true design of Tahoe-100M.

    python benchmarks/splits.py [--quick]

65,943 (line, perturbation, plate) blocks, 56,879 conditions. With the drug table where the generator
wants one: reading it, 377 structures included, is part of the time. Each runs in a process of its
own; the time is that of the work, without imports. A round trip through the TOML is timed too.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import tomllib
from typing import Any

from common import ROOT, arguments, finish

DESIGN = ROOT.parent / "shared" / "data" / "tahoe_design"
DRUGS = {
    "path": str(DESIGN / "drug_metadata.parquet"),
    "name": "drug",
    "smiles": "canonical_smiles",
}
LINES = {"path": str(DESIGN / "cell_line_metadata.parquet"), "name": "cell_name"}
CASES: dict[str, dict[str, Any]] = {
    "dc_block": {},
    "dc_block, strata and structures": {
        "drug_table": DRUGS,
        "line_table": LINES,
        "stratify": {"drugs": "moa-fine", "lines": "Organ"},
    },
    "pair_random": {},
    "context_fewshot": {},
    "line_out": {},
    "drug_out": {},
    "both_out": {},
    "dose_interpolate": {},
    "dose_extrapolate": {},
    "plate_out": {},
    "moa_out": {"drug_table": DRUGS, "group": "moa-fine"},
    "scaffold_out": {"drug_table": DRUGS},
    "line_folds": {"k": 5},
    "perturbation_folds": {"k": 5},
}


def measure(name: str) -> dict[str, Any]:
    """Make, check and round-trip one split; called in a process of its own."""
    sys.path.insert(0, str(ROOT / "config" / "splits" / "tahoe"))
    from make import CONTROL, from_design

    from statetx.config import GENERATORS
    from statetx.splits.apply_toml import roles_from_toml
    from statetx.splits.compounds.drug_tables import facts_of
    from statetx.splits.findings import Findings
    from statetx.splits.lint.lint import Facts
    from statetx.splits.split import checked
    from statetx.splits.toml import parse, plan_file

    source = from_design(DESIGN)
    generator = name.partition(",")[0]
    settings = GENERATORS[generator].model_validate(
        {"dataset": "tahoe", "generator": generator, **CASES[name]}
    )
    begin = time.perf_counter()
    fold = 0 if "k" in CASES[name] else None
    facts = Facts((CONTROL,), one_hot=False)
    known = facts_of(settings)
    plan, report = checked(source.conditions, settings, fold, None, known, facts)
    made = time.perf_counter()
    text = plan_file(plan, source.conditions, "tahoe", "results/tahoe/pack", {}).text()
    log = Findings()
    read = parse(tomllib.loads(text), log)
    again = roles_from_toml(read, "tahoe", source.conditions, [CONTROL], log)
    keys = ["line", "perturbation", "role"]
    same = again[keys].sort_values(keys).to_numpy() == plan[keys].sort_values(keys).to_numpy()
    assert same.all(), "the plan changes on its way through the TOML"
    return {
        "split": name,
        "make_and_lint_s": round(made - begin, 2),
        "round_trip_s": round(time.perf_counter() - made, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        **{row["role"]: row["conditions"] for row in report.roles.to_dict("records")},
        "left_out": int((plan["role"] == "none").sum()),
        "errors": len(report.findings.errors),
    }


def main() -> None:
    """Measure every case."""
    options = arguments((__doc__ or "").split("\n")[0])
    if not DESIGN.is_dir():
        raise SystemExit(f"the design of Tahoe-100M is not there: {DESIGN}")
    rows = []
    for name in list(CASES)[: 3 if options.quick else None]:
        command = [sys.executable, __file__, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    figures = {
        "slowest_s": max(row["make_and_lint_s"] for row in rows),
        "largest_mb": max(row["peak_mb"] for row in rows),
    }
    finish("splits_quick" if options.quick else "splits", rows, figures)


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(measure(sys.argv[-1])))
    else:
        main()
