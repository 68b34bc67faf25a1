"""Summarise which controls were drawn for the cells of a user's file."""

from __future__ import annotations

from typing import Any

import numpy as np

from statetx.inference.own_cells import OwnCells
from statetx.inference.write_predictions import Request


def drawn(own: OwnCells, requests: list[Request], batch_col: str | None) -> dict[str, Any]:
    """Print how many controls are used more than once, and how many come from another batch.

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
        Entry for ``uns`` of the output: ``matched_by``, ``repeated`` (cells minus distinct
        controls, summed over conditions) and ``other_batch`` (cells whose batch has no controls of
        their line).
    """
    repeated, other_batch, n_cells, worst = [], 0, 0, ""
    for request in requests:
        n = len(request.controls)
        n_cells += n
        n_repeated = n - len(np.unique(request.controls))
        if n_repeated:
            repeated.append(n_repeated)
            if n_repeated == max(repeated):
                n_controls = len(own.controls(request.line).rows)
                worst = (
                    f"{n} cells of ({request.line!r}, {request.perturbation!r}) from "
                    f"{n - n_repeated} of {n_controls} controls"
                )
        other_batch += int((own.batch.values_at(request.controls) != request.batches).sum())
    if repeated:
        print(
            f"{len(repeated)} of {len(requests)} conditions ask for more cells than there are "
            f"controls of their batch and line: controls serve more than once (at most {worst})"
        )
    if other_batch:
        print(
            f"{other_batch} of {n_cells} cells are in batches without controls of their line: "
            "their controls come from its other batches"
        )
    matched = ["cell_line"] if batch_col is None else ["cell_line", batch_col]
    return {"matched_by": matched, "repeated": sum(repeated), "other_batch": other_batch}
