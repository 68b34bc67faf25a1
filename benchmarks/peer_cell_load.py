"""cell-load's own DataLoader, measured on request. Runs in an environment of its own:

    python -m venv /tmp/peer_env
    /tmp/peer_env/bin/pip install torch==2.13.0
    /tmp/peer_env/bin/pip install cell-load==0.10.4

One JSON request per line on stdin, one JSON answer per line on stdout, so that whoever asks can
measure something else in between:

    echo '{"directory": "h5ads", "consecutive": false, "embed_key": "X_hvg", "output_space": "gene",
           "workers": 0, "seconds": 6, "skip": 3}' | tr -d '\\n' \\
        | /tmp/peer_env/bin/python benchmarks/peer_cell_load.py

The module is set up as `state tx train` does it: a `PerturbationDataModule` from a TOML in which all
cells train, sets of 256 cells, batches of 16 sets. A cell is a target with its control, as in the
batches that come out.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cell_load.data_modules import PerturbationDataModule
from memory import cpu_seconds, warm

SET_LEN, SETS = 256, 16


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Set up the module, skip a few batches, and count what comes out for some seconds.

    Parameters
    ----------
    request
        ``directory`` of h5ads; ``consecutive``: `use_consecutive_loading`, which needs sorted
        files; ``embed_key``; ``output_space``; ``workers``; ``seconds`` to measure and batches to
        ``skip`` before.
    """
    warm(sorted(Path(request["directory"]).glob("*.h5ad")))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        toml = Path(folder) / "data.toml"
        toml.write_text(f'[datasets]\nd = "{request["directory"]}"\n[training]\nd = "train"\n')
        module = PerturbationDataModule(
            toml_config_path=str(toml),
            batch_size=SETS,
            num_workers=request["workers"],
            pert_col="drug_dose",
            batch_col="batch",
            cell_type_key="cell_line",
            control_pert="DMSO_TF_00",
            embed_key=request["embed_key"],
            output_space=request["output_space"],
            cell_sentence_len=SET_LEN,
            use_consecutive_loading=request["consecutive"],
        )
        module.setup()
    loader = module.train_dataloader()
    batches = _forever(loader)
    first = next(batches)
    answer = {
        "version": importlib.metadata.version("cell-load"),
        "open_s": time.perf_counter() - begin,
        "batch": _describe(first),
    }
    del first
    for _ in range(request["skip"] - 1):
        next(batches)
    cells = 0
    begin, cpu = time.perf_counter(), cpu_seconds(os.getpid())
    while (passed := time.perf_counter() - begin) < request["seconds"]:
        cells += len(next(batches)["pert_cell_emb"])
    cpu = cpu_seconds(os.getpid()) - cpu
    return {**answer, "cells": cells, "seconds": passed, "cpu_s": cpu}


def _forever(loader: Any) -> Iterator[dict[str, Any]]:
    """Yield batches epoch after epoch."""
    while True:
        yield from loader


def _describe(batch: dict[str, Any]) -> dict[str, Any]:
    """Say what a batch holds, so that nobody compares different things."""
    keys = {
        "target": "pert_cell_emb",
        "control": "ctrl_cell_emb",
        "expression": "pert_cell_counts",
    }
    out: dict[str, Any] = {}
    for name, key in keys.items():
        if (values := batch.get(key)) is not None:
            out[f"{name}_shape"] = list(values.shape)
            out[f"{name}_dtype"] = str(values.dtype).removeprefix("torch.")
            out[f"{name}_nonzero"] = float((values != 0).float().mean())
    return out


def main() -> None:
    """Answer requests until stdin ends."""
    # Whatever the library prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
