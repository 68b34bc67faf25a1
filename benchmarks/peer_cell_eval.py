"""cell-eval's own command line and pdex, run on request. Needs an environment of its own:

    python3 -m venv /tmp/ce_env
    /tmp/ce_env/bin/pip install cell-eval==0.8.2 pdex==0.3.0

One JSON request per line on stdin, one JSON answer per line on stdout; the process stays, so that
compiling and importing is paid once:

* `{"do": "command", "arguments": ["run", ...]}`: what `cell-eval run ...` does. Answers with the
  exception, if there was one, and with the metrics that failed (there: logged, column left out).
* `{"do": "de", "path": "x.h5ad", ...}`: pdex as cell-eval calls it, timed, on cells in memory; U and
  p go into a file.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
import time
from typing import Any

import anndata
import numpy as np
from cell_eval.__main__ import main as cell_eval_main
from pdex import pdex


class Failures(logging.Handler):
    """Keeps what cell-eval logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.messages.append(record.getMessage())


FAILURES = Failures()
_held: dict[str, anndata.AnnData] = {}


def command(request: dict[str, Any]) -> dict[str, Any]:
    """Run the command line in this process."""
    FAILURES.messages.clear()
    sys.argv = ["cell-eval", *request["arguments"]]
    error = None
    try:
        cell_eval_main()
    except (Exception, SystemExit) as caught:
        error = f"{type(caught).__name__}: {caught}"
    return {"error": error, "failed": list(FAILURES.messages)}


def de(request: dict[str, Any]) -> dict[str, Any]:
    """Time pdex, after a small call that compiles it.

    Parameters
    ----------
    request
        ``path`` of an h5ad, read once and kept; ``pert_col`` and ``control``; ``threads``; ``out``:
        npz for U and p, [P, G] in the order of sorted labels.
    """
    path = request["path"]

    def call(cells: anndata.AnnData) -> Any:
        return pdex(
            cells,
            groupby=request["pert_col"],
            mode="ref",
            threads=request["threads"],
            is_log1p=True,
            epsilon=0.0,
            reference=request["control"],
        )

    if path not in _held:
        _held.clear()
        _held[path] = anndata.read_h5ad(path)
        labels = _held[path].obs[request["pert_col"]].astype(str)
        few = labels.isin([request["control"], min(set(labels) - {request["control"]})])
        small = _held[path][few.to_numpy()]
        call(small[:, :20].copy())
    begin, cpu = time.perf_counter(), time.process_time()
    frame = call(_held[path])
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    names = frame["target"].to_numpy()
    order = np.argsort(names, kind="stable")
    shape = (len(set(names)), -1)
    np.savez(
        request["out"],
        statistic=frame["statistic"].to_numpy()[order].reshape(shape),
        p_value=frame["p_value"].to_numpy()[order].reshape(shape),
    )
    return {"seconds": seconds, "cpu_s": cpu}


def version(_: dict[str, Any]) -> dict[str, Any]:
    """Return the versions."""
    return {name: importlib.metadata.version(name) for name in ("cell-eval", "pdex")}


DOES = {"command": command, "de": de, "version": version}


def main() -> None:
    """Answer requests until stdin ends."""
    # Whatever the library prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.getLogger("cell_eval").addHandler(FAILURES)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(DOES[request["do"]](request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
