"""The genes stage: highly variable genes of X, chosen on the training cells of a split alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from statetx.core.errors import ResultsError
from statetx.core.text_files import write_text
from statetx.data.store import hvg, kernels
from statetx.data.store.plan import Plan, read_plan
from statetx.data.store.roles import conditions, control_runs
from statetx.data.store.store import LineStore, Store, open_store

log = logging.getLogger("statetx.genes")

ROWS_AT_ONCE = 1 << 16
"""Bounds the memory: with 200 values a cell, 13 million values."""


def genes(store_dir: str | Path, plan_path: str | Path, n_hvg: int, out: str | Path) -> list[str]:
    """Choose genes and write ``genes/{n}.txt``, one name per line in the order of the store.

    Counts: variance of standardised, clipped counts (`hvg.choose`, seurat_v3). Values on the log
    scale: normalised dispersion (seurat). All cells that training sees take part, each once.

    Parameters
    ----------
    store_dir, plan_path
        Store and plan.
    n_hvg
        How many.
    out
        File to write, whole or not at all.

    Returns
    -------
    list of str
        The chosen genes.

    Raises
    ------
    ResultsError
        The data set is modelled in a matrix whose genes were chosen outside.
    DataError, ConfigError
        More genes are wanted than vary, or there are too few to compare.
    """
    store, plan = open_store(store_dir), read_plan(plan_path)
    key = store.manifest["expression_key"]
    if key is not None:
        raise ResultsError(
            f"this data set is modelled in obsm {key!r}, whose genes were chosen outside",
            where=store_dir,
            fix="set `expression_key` of the data set to null to choose genes of X",
        )
    names = store.manifest["genes"]
    kind: Literal["counts", "log1p"] = store.manifest["scale"]
    chosen = hvg.choose(lambda: _parts(store, plan, kind), len(names), n_hvg, kind)
    found = [str(names[i]) for i in chosen]
    write_text(out, "\n".join(found) + "\n")
    log.info("%d of %d genes chosen on training cells (%s)", len(found), len(names), kind)
    return found


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
    indptr, indices, values = cells.csr
    pointers = indptr[start : stop + 1]
    here = slice(int(pointers[0]), int(pointers[-1]))
    stored = values[here]
    if kind == "log1p" and cells.meaning == kernels.COUNTS:
        scale = np.repeat(cells.scale[start:stop], np.diff(pointers))
        stored = np.log1p(stored * scale).astype(np.float32)
    return pointers, indices[here], stored
