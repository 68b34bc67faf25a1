"""The random numbers behind every draw."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from statetx.data.sets import draws


def reference_bits(key: int, counter: int) -> int:
    """SplitMix64 by its definition, in Python's integers."""
    mask = (1 << 64) - 1
    z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_bits_are_splitmix64() -> None:
    # The first outputs of the reference implementation for seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [reference_bits(1234567, i) for i in range(3)] == published
    for key in (0, 1234567, (1 << 64) - 1):
        for counter in (0, 1, 77):
            assert int(draws.bits(np.uint64(key), counter)) == reference_bits(key, counter)


def test_shuffles_are_uniform_permutations() -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    for i in range(4800):
        counts[tuple(draws.shuffled(draws.name_key("shuffle", i), 4).tolist())] += 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def layout() -> tuple[
    draws.Conditions, draws.ControlRuns, list[set[int]], list[dict[int, set[int]]]
]:
    """Two conditions in three blocks, two pools; cells, and controls by cell, worked out by hand.

    Every array has other values than its neighbours, so that exchanging two of them shows.
    """
    conditions = draws.Conditions(
        keys=np.array([draws.name_key("a"), draws.name_key("b")], dtype=np.uint64),
        n_cells=np.array([5, 4]),
        windows=np.array([2, 1]),
        identity=np.array([False, True]),
        first_block=np.array([0, 2, 3]),
        block_row=np.array([10, 20, 30]),
        block_before=np.array([0, 3, 0]),
        block_pool=np.array([1, 0, 1]),
    )
    runs = draws.ControlRuns(
        first_run=np.array([0, 1, 3]),
        run_start=np.array([100, 200, 300]),
        run_before=np.array([0, 2, 0, 1, 3]),
    )
    cells = [{10, 11, 12, 20, 21}, {30, 31, 32, 33}]
    first, second = {100, 101}, {200, 300, 301}
    by_cell = [dict.fromkeys((10, 11, 12), second) | dict.fromkeys((20, 21), first)]
    by_cell.append({row: {row} for row in cells[1]})
    return conditions, runs, cells, by_cell


@pytest.mark.parametrize("paired", [True, False])
def test_rows_and_controls_of_a_layout_worked_out_by_hand(paired: bool) -> None:
    conditions, runs, cells, by_cell = layout()
    chosen, number = np.array([0, 0, 1]), np.array([0, 1, 0])
    seen: list[dict[int, set[int]]] = [{}, {}]
    for epoch in range(60):
        rows, basal = np.empty((3, 4), np.int64), np.empty((3, 4), np.int64)
        length = np.empty(3, np.int64)
        draws.draw_sets(
            chosen,
            number,
            conditions,
            runs,
            seed=0,
            epoch=epoch,
            mix=1,
            wrap=False,
            paired=paired,
            rows=rows,
            basal=basal,
            length=length,
        )
        assert length.tolist() == [4, 1, 4]
        assert set(rows[0]) | set(rows[1]) == cells[0], "two windows hold all cells"
        assert set(rows[2]) == cells[1]
        assert (rows[1] == rows[1, 0]).all(), "the rest repeats the first cell"
        if paired:  # three cells of a pool of three, or two of a pool of two
            assert len(set(basal[0])) == 4
        for c, b in ((0, 0), (0, 1), (1, 2)):
            for row, control in zip(rows[b].tolist(), basal[b].tolist(), strict=True):
                seen[c].setdefault(row, set()).add(control)
    assert seen == by_cell


@pytest.mark.slow
def test_another_process_draws_the_same(tiny_store: Path, tiny_plan: Path) -> None:
    """Two fresh interpreters with other hash seeds: each compiles and imports, about 5 s."""
    code = (
        "import json, sys, numpy as np\n"
        "from statetx.data.store.plan import read_plan\n"
        "from statetx.data.sets.set_table import SetTable\n"
        "from statetx.data.store.store import open_store\n"
        "made = SetTable(open_store(sys.argv[1]), read_plan(sys.argv[2]), 'train', 8, seed=3)\n"
        "drawn = made.draw(*made.epoch(2), 2)\n"
        "print(json.dumps([drawn.rows.tolist(), drawn.controls.tolist()]))\n"
    )
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code, str(tiny_store), str(tiny_plan)],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
