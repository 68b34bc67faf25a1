"""A short run of the fuzz suite; `make fuzz` is the long one.

Slow because every kind of input starts its readers (compiled loops, torch) and a small tree of results
is made first: 15 s before the first damaged input.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SECONDS = 40


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Faults of every kind."""
    home = tmp_path_factory.mktemp("fuzz")
    script = Path(__file__).with_name("run.py")
    command = [sys.executable, str(script), "--seconds", str(SECONDS), "--json", "out.json"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert (home / "out.json").exists(), done.stdout + done.stderr
    told = json.loads((home / "out.json").read_text())
    assert min(told["tried"].values()) > 0, told["tried"]
    return told["faults"]


def test_a_damaged_input_is_refused_or_changes_nothing(faults):
    found = [text for texts in faults.values() for text in texts]
    assert not found, "\n".join(found)
