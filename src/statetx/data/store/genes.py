"""The genes stage: choice of highly variable genes of X on the training cells of a split."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from statetx.core.errors import ResultsError
from statetx.core.text_files import write_text
from statetx.data.store import hvg, kernels
from statetx.data.store.line_store import LineStore
from statetx.data.store.plan import Plan, read_plan
from statetx.data.store.roles import conditions, control_runs
from statetx.data.store.store import Store, open_store

log = logging.getLogger("statetx.genes")

ROWS_AT_ONCE = 1 << 16
"""Rows read at once. Bounds memory: 13 million values at 200 values per cell."""


def genes(store_dir: str | Path, plan_path: str | Path, n_hvg: int, out: str | Path) -> list[str]:
    """Choose genes and write ``genes/{n}.txt``, one name per line in the order of the store.

    Counts are ranked by the variance of standardised, clipped counts (seurat_v3), log1p values by
    the normalised dispersion (seurat); see `hvg.choose`. Every training cell is used once.

    Parameters
    ----------
    store_dir
        Directory of the store.
    plan_path
        Path of the plan.
    n_hvg
        Number of genes to choose.
    out
        File to write, whole or not at all.

    Returns
    -------
    list of str
        The chosen genes.

    Raises
    ------
    ResultsError
        The data set has an ``expression_key``: its genes were chosen outside statetx.
    ConfigError
        `n_hvg` is not between 1 and the number of genes that vary.
    DataError
        There are fewer than two training cells, or too few genes that vary.
    """
    store, plan = open_store(store_dir), read_plan(plan_path)
    key = store.manifest["expression_key"]
    if key is not None:
        raise ResultsError(
            f"this data set is modelled in obsm {key!r}, whose genes were chosen outside statetx",
            where=store_dir,
            fix="set `expression_key` of the data set to null to choose genes of X",
        )
    names = store.manifest["genes"]
    kind: Literal["counts", "log1p"] = store.manifest["scale"]
    chosen = hvg.choose(lambda: _parts(store, plan, kind), len(names), n_hvg, kind)
    labels = [str(names[i]) for i in chosen]
    write_text(out, "\n".join(labels) + "\n")
    log.info("%d of %d genes chosen on training cells (%s)", len(labels), len(names), kind)
    return labels


def _parts(store: Store, plan: Plan, kind: str) -> Iterator[hvg.Part]:
    """Yield the training cells as pieces of CSR, in the order of the store."""
    for line, label in conditions(store, plan, "train"):
        cells = store.line(line)
        runs = [cells.run(label)]
        if label == store.control:
            runs = list(control_runs(cells, label, "train", plan.controls).values())
        for first, last in runs:
            for start in range(first, last, ROWS_AT_ONCE):
                yield _part(cells, start, min(last, start + ROWS_AT_ONCE), kind)


def _part(cells: LineStore, start: int, stop: int, kind: str) -> hvg.Part:
    """Return rows [start, stop) of a line as CSR, as counts or as log1p values."""
    indptr, indices, values = cells.csr
    pointers = indptr[start : stop + 1]
    span = slice(int(pointers[0]), int(pointers[-1]))
    stored = values[span]
    if kind == "log1p" and cells.meaning == kernels.COUNTS:
        scale = np.repeat(cells.scale[start:stop], np.diff(pointers))
        stored = np.log1p(stored * scale).astype(np.float32)
    return pointers, indices[span], stored
