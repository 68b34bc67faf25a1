"""Planning and drawing sets over the true design of Tahoe-100M: counts only, no cells.

    python benchmarks/plan.py [--quick]

Needs ``../shared/data/tahoe_design``. Reports the seconds to build the table of sets from 65,943
conditions, to plan an epoch of some 400,000 sets, and the pairs (cell and control) that one thread
draws per second.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
from common import ROOT, arguments, finish

sys.path.insert(0, str(ROOT / "tests" / "data"))
from design_store import DesignStore

from statetx.data.sets.set_table import SetTable


def main() -> None:
    """Time each step a few times; report medians."""
    rounds = 2 if arguments(__doc__ or "").quick else 5
    grid = ROOT.parent / "shared/data/tahoe_design/obs_cell_grid.parquet"
    if not grid.exists():
        raise SystemExit(f"the design is not there: {grid}")
    store = DesignStore(grid)
    plan = store.plan()
    SetTable(store, plan, "val", 256).draw(np.empty(0), np.empty(0), 0)  # compiles
    rows = []
    for number in range(rounds):
        begin = time.perf_counter()
        table = SetTable(store, plan, "train", 256)
        built = time.perf_counter()
        condition, window = table.epoch(number)
        planned = time.perf_counter()
        n = 20_000
        for at in range(0, n, 64):
            table.draw(condition[at : at + 64], window[at : at + 64], number)
        drawn = time.perf_counter()
        rows.append(
            {
                "round": number,
                "table_s": round(built - begin, 3),
                "epoch_s": round(planned - built, 3),
                "pairs_per_s": round(n * 256 / (drawn - planned)),
            }
        )
        print(rows[-1])
    figures = {
        key: float(np.median([row[key] for row in rows])) for key in rows[0] if key != "round"
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures |= {"n_sets": table.n_sets, "conditions": len(table.conditions), "peak_gb": peak / 1e9}
    finish("plan_quick" if rounds == 2 else "plan", rows, figures)


if __name__ == "__main__":
    main()
