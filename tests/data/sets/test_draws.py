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
