"""What the draw of controls for somebody's cells did: said in a line each, and in the output."""

from __future__ import annotations

from typing import Any

import numpy as np

from statetx.inference.own_cells import OwnCells
from statetx.inference.write_predictions import Request


def drawn(own: OwnCells, requests: list[Request], batch_col: str | None) -> dict[str, Any]:
    """Say which controls serve more than once, and which come from another batch.

    Parameters
    ----------
    own
        The file.
    requests
        Conditions with the controls that were drawn.
    batch_col
        obs column of the batch; None: controls are matched by cell line only.

    Returns
    -------
    dict
        What goes into ``uns`` of the output: ``matched_by``, ``repeated`` (cells whose control serves another
        cell of the condition too) and ``other_batch`` (cells whose batch has no controls of their line).
    """
    repeated, elsewhere, n_cells, worst = [], 0, 0, ""
    for request in requests:
        n = len(request.controls)
        n_cells += n
        again = n - len(np.unique(request.controls))
        if again:
            repeated.append(again)
            if again == max(repeated):
                n_controls = len(own.controls(request.line).rows)
                worst = (
                    f"{n} cells of ({request.line!r}, {request.perturbation!r}) from "
                    f"{n - again} of {n_controls} controls"
                )
        elsewhere += int((own.batch.values_at(request.controls) != request.batches).sum())
    if repeated:
        print(
            f"{len(repeated)} of {len(requests)} conditions ask for more cells than there are controls of their "
            f"batch and line: controls serve more than once (at most {worst})"
        )
    if elsewhere:
        print(
            f"{elsewhere} of {n_cells} cells are in batches without controls of their line: their controls come "
            "from its other batches"
        )
    matched = ["cell_line"] if batch_col is None else ["cell_line", batch_col]
    return {"matched_by": matched, "repeated": sum(repeated), "other_batch": elsewhere}
