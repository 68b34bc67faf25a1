"""The results of the demo that later versions must give again, and the machine that made them.

    PYTHONPATH=tests/helpers python tests/helpers/golden.py RESULTS

writes them anew, from the ``results`` of a finished ``make demo``. A change that is meant goes into the changelog.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

from stable_digests import stable_digests

GOLDEN = Path(__file__).parents[1] / "golden" / "demo.json"


def machine() -> dict[str, str]:
    """Return what the last bits of a result depend on."""
    import torch

    found = {name: version(name) for name in ("numpy", "scipy", "torch", "numba", "pandas")}
    return {**found, "cpu": torch.backends.cpu.get_cpu_capability()}


if __name__ == "__main__":
    content = {"machine": machine(), "results": stable_digests(Path(sys.argv[1]))}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
