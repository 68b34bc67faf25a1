"""Cells that people bring, and the tables that go with them.

A changed file may be valid and mean something else. anndata says what it means, and the product must say
the same; of tables only errors are judged, and the names in them.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import damage
import engine
import h5py
import hdf5
import numpy as np
import pandas as pd
import samples
from engine import Kind, Result, Wrong, on, valid
from scipy import sparse

from statetx.shared import labels

COLUMNS = ("drug_dose", "cell_line", "batch")


def kinds(tree: Path) -> list[Kind]:
    """Return the kinds of cells and of what goes with them; some need a finished tree."""
    table, parquet = damage.one_of(damage.in_frame), damage.one_of(damage.in_parquet)
    mine = partial(samples.model_and_cells, tree)
    cells, real, pred = (on(f"{name}.h5ad", hdf5.in_h5ad) for name in ("cells", "real", "pred"))
    return [
        Kind("h5ad-pack", samples.counts_file, cells, pack, as_clean(pack)),
        Kind("h5ad-evaluate", samples.pair, real, evaluate, as_clean(evaluate, "real.h5ad")),
        Kind("h5ad-predicted", samples.pair, pred, evaluate, as_clean(evaluate, "pred.h5ad")),
        Kind("h5ad-infer", mine, cells, infer, as_clean(infer)),
        Kind("infer-table", mine, on("asked.csv", table), infer, _asked),
        Kind("de-csv", samples.pair, on("real_de.csv", table), evaluate_de("csv"), valid),
        Kind("de-parquet", samples.pair, on("real_de.parquet", parquet), evaluate_de("parquet"), valid),
        Kind("score", samples.pair, on("user_agg.csv", table), score, valid),
    ]  # fmt: skip


def _read_cells(path: Path) -> anndata.AnnData:
    """Return what anndata says of a file, its labels as plain text."""
    with h5py.File(path) as file:
        for name in (*COLUMNS, "_index"):
            item = file["obs"].get(name)
            for part in item.values() if isinstance(item, h5py.Group) else [item]:
                if isinstance(part, h5py.Dataset) and h5py.check_enum_dtype(part.dtype):
                    raise TypeError("anndata reads the numbers of an enumeration, not its names")
    read = anndata.read_h5ad(path)
    obs = pd.DataFrame(
        {name: read.obs[name].astype(object).astype(str) for name in COLUMNS},
        index=read.obs_names.astype(str),
    )
    x = sparse.csr_matrix(read.X) if sparse.issparse(read.X) else read.X
    return anndata.AnnData(x, obs, pd.DataFrame(index=read.var_names.astype(str)))


def _read_parts(path: Path) -> anndata.AnnData:
    """Return what the parts of a file say, attributes left aside: anndata refuses some that are clear."""

    def text(item: h5py.Dataset) -> np.ndarray:
        names = {v: k for k, v in (h5py.check_enum_dtype(item.dtype) or {}).items()}
        values = [names.get(value, value) for value in item[()].tolist()]
        return np.array(
            [v.decode() if isinstance(v, bytes) else str(v) for v in values], dtype=object
        )

    def labels(item: Any) -> np.ndarray:
        if isinstance(item, h5py.Dataset):
            return text(item)
        codes = item["codes"][()]
        if codes.min() < 0:
            raise ValueError("missing labels")
        return text(item["categories"])[codes.astype(int)]

    with h5py.File(path) as file:
        obs = pd.DataFrame({name: labels(file["obs"][name]) for name in COLUMNS})
        with contextlib.suppress(OSError):  # scores need no names of cells
            obs.index = text(file["obs"][file["obs"].attrs.get("_index", "_index")])
        var = text(file["var"][file["var"].attrs.get("_index", "_index")])
        x = file["X"]
        if isinstance(x, h5py.Group):
            parts = tuple(x[name][()] for name in ("data", "indices", "indptr"))
            x = sparse.csr_matrix(parts, shape=(len(obs), len(var)))
        return anndata.AnnData(
            x[()] if isinstance(x, h5py.Dataset) else x, obs, pd.DataFrame(index=var)
        )


def as_clean(
    read: Callable[[Path], Result], name: str = "cells.h5ad"
) -> Callable[[Path, Result, Result], str | None]:
    """Judge a result by that of the same cells, read and written by anndata."""

    def judge(home: Path, good: Result, got: Result) -> str | None:
        if (wrong := engine.difference(good, got)) is None:
            return None
        path = home / name
        clean, why = None, ""
        for reader in (_read_cells, _read_parts):
            try:
                clean = clean or reader(path)
            except Exception as error:
                why = why or type(error).__name__
        if clean is None:
            return f"accepted what anndata cannot read, {why}; {wrong}"
        path.unlink()
        clean.write_h5ad(path)
        try:
            expected = read(home)
        except Exception as error:
            return f"accepted, but not as anndata reads it: {type(error).__name__} | {error}"
        wrong = engine.difference(expected, got)
        return "other" if wrong is None else f"differs from anndata's reading: {wrong}"

    return judge


def pack(home: Path) -> Result:
    """Inspect and pack a file: both must accept it, or both refuse it."""
    from statetx.config import Dataset
    from statetx.core.errors import DataError, StatetxError
    from statetx.data.inspection import inspect as h5ad
    from statetx.data.pack.pack import pack as work
    from statetx.data.store.store import open_store

    path, out = home / "cells.h5ad", home / "pack"
    said = {"files": [str(path)], "control_pert": samples.CONTROL, "scale": "counts"}
    settings = Dataset.model_validate(said)
    problems = h5ad.inspect([path], settings).problems
    shutil.rmtree(out, ignore_errors=True)
    try:
        work([path], settings, "tiny", out)
    except StatetxError as error:
        if not problems:
            raise Wrong(f"inspect found nothing, pack refuses | {error.what}") from None
        raise
    if problems:
        raise Wrong(f"pack accepts, inspect refuses | {problems[0].what}")
    store = open_store(out)
    cells: dict[str, Any] = {}
    for name in store.lines:
        line = store.line(name)
        rows = np.arange(line.n_cells)
        labels = np.empty(line.n_cells, dtype=object)
        for label in store.conditions.query("line == @name")["perturbation"].unique():
            labels[line.rows(label)] = label
        values = line.counts(rows)
        for i, (cell, batch) in enumerate(zip(line.barcodes, line.batches(rows), strict=True)):
            cells.setdefault(cell, []).append((name, labels[i], batch, values[i].tobytes()))
    if not cells:
        raise DataError("no cells")
    return {"genes": store.genes, "cells": {cell: sorted(rows) for cell, rows in cells.items()}}


def evaluate(home: Path, **tables: Any) -> Result:
    """Score a pair of files."""
    from statetx.evaluation.standalone.evaluate_files import evaluate_files

    out = home / "scores"
    shutil.rmtree(out, ignore_errors=True)
    files = (home / "pred.h5ad", home / "real.h5ad", "drug_dose", samples.CONTROL, "cell_line")
    evaluate_files(*files, out=out, profile="minimal", **tables)
    names = ("results.csv", "scores.csv")
    return {
        str(path.relative_to(out)): path.read_text()
        for name in names
        for path in sorted(out.rglob(name))
    }


def evaluate_de(kind: str) -> Callable[[Path], Result]:
    """Return a reader of a pair with a table of tests."""

    def read(home: Path) -> Result:
        from statetx.evaluation.standalone.evaluate_files import evaluate_files

        out = home / "scores"
        files = (home / "pred.h5ad", home / "real.h5ad", "drug_dose", samples.CONTROL, "cell_line")
        table = home / f"real_de.{kind}"
        evaluate_files(*files, out=out, profile="de", with_scores=False, real_de=table)
        return {str(p.relative_to(out)): p.read_text() for p in sorted(out.rglob("results.csv"))}

    return read


def infer(home: Path) -> Result:
    """Predict for somebody's own cells."""
    from statetx.inference.infer import infer as work

    out = home / "out.h5ad"
    out.unlink(missing_ok=True)
    table = home / "asked.csv"
    work(home / "model", home / "cells.h5ad", out, table=table, device="cpu")
    read = anndata.read_h5ad(out)
    obs = {name: read.obs[name].astype(str).tolist() for name in ("perturbation", "cell_line")}
    return {**obs, "genes": list(read.var_names), "X": np.asarray(read.X)}


def _asked(home: Path, good: Result, got: Result) -> str | None:
    """Compare the conditions that were predicted with those of the table, cell by cell as text."""
    if engine.difference(good, got) is None:
        return None
    rows = rows_of(home / "asked.csv")
    wanted = sorted({(meaning(row["perturbation"]), row["cell_line"].strip()) for row in rows})
    found = {*zip(map(meaning, got["perturbation"]), got["cell_line"], strict=True)}
    return (
        "other"
        if wanted == sorted(found)
        else f"other conditions than asked for | {wanted} {found}"
    )


def meaning(label: str) -> str:
    """Return drug and dose of a label: spellings of one condition are equal."""
    parsed = labels.parse(unicodedata.normalize("NFC", label).strip())
    return f"{parsed.drug.strip()} {parsed.dose}"


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a CSV as text, cell by cell."""
    text = path.read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(text.splitlines(keepends=True), skipinitialspace=True))


def score(home: Path) -> Result:
    """Score an aggregate table against a baseline's."""
    from statetx.evaluation.cell_eval.baseline_score import score_against

    table = score_against(home / "user_agg.csv", home / "baseline_agg.csv", home / "out.csv")
    return {"table": table.to_csv(index=False)}
