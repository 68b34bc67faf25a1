"""The functions that `statetx` offers in Python, with cells in memory instead of files."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    import anndata

    from statetx.data.inspection.inspect import Report
    from statetx.evaluation.verdict.contract import Verdict
    from statetx.models.model_dir import LoadedModel


class Evaluation(NamedTuple):
    """Tables of `evaluate`.

    Attributes
    ----------
    results
        cell-eval's columns, one row per cell line and perturbation.
    aggregate
        Count, mean, standard deviation and quartiles of each of these columns, per cell line.
    scores
        statetx's own scores, one row per cell line and perturbation.
    """

    results: pd.DataFrame
    aggregate: pd.DataFrame
    scores: pd.DataFrame


def load_model(path: str | Path, checkpoint: str = "best", device: str = "cpu") -> LoadedModel:
    """Open a model directory, check all of it and replay its golden cells.

    Parameters
    ----------
    path
        A model directory that statetx trained or imported.
    checkpoint
        ``best``, ``last`` or ``step=N``.
    device
        ``cpu``, ``cuda`` or ``auto``.

    Returns
    -------
    LoadedModel
        Its ``predict(control, line, perturbation)`` takes control cells, float32 [S, D], and returns
        predicted cells, float32 [S, G].

    Raises
    ------
    ModelError
        A file is missing, broken, altered or does not fit the others.

    Examples
    --------
    >>> model = load_model(model_directory)
    >>> model.meta["control"]
    'DMSO_TF_00'
    """
    from statetx.models.model_dir import load

    return load(path, checkpoint, device)


def predict(
    model: str | Path | LoadedModel,
    cells: anndata.AnnData,
    conditions: pd.DataFrame | None = None,
    **options: Any,
) -> anndata.AnnData:
    """Predict perturbed cells from the control cells of a data set.

    Parameters
    ----------
    model
        A model directory, or what `load_model` returned.
    cells
        Control cells, [n, G], of one or more cell lines: the model's genes as counts or log1p values
        in ``X``, or the matrix that the model works in under ``obsm``.
    conditions
        What to predict: columns ``perturbation``, ``cell_line`` and, optionally, ``n_cells``. None:
        every perturbation that `cells` holds.
    **options
        Further arguments of `statetx.inference.infer.infer`, such as ``celltype_col`` and ``seed``.

    Returns
    -------
    AnnData
        Predicted cells, log1p expression of the model's genes; ``obs`` names the perturbation, the
        cell line and the control cell of each.

    Raises
    ------
    StatetxError
        An unknown perturbation or cell line, missing genes, another scale: the error says what to do.

    Examples
    --------
    >>> asked = pd.DataFrame({"perturbation": ["Drug01_5"], "cell_line": ["L01"], "n_cells": [10]})
    >>> predicted = predict(model_directory, cells, asked)
    >>> predicted.n_obs
    10
    """
    import anndata

    from statetx.inference.infer import infer
    from statetx.shared.tables import write_table

    with tempfile.TemporaryDirectory() as home:
        source, out, table = (Path(home) / name for name in ("cells.h5ad", "out.h5ad", "asked.csv"))
        cells.write_h5ad(source)
        if conditions is not None:
            write_table(conditions, table)
        given = model if isinstance(model, str | Path) else model.path
        with contextlib.redirect_stdout(sys.stderr):  # what `statetx infer` prints
            infer(given, source, out, table=None if conditions is None else table, **options)
        return anndata.read_h5ad(out)


def evaluate(
    predicted: anndata.AnnData,
    real: anndata.AnnData,
    *,
    pert_col: str,
    control_pert: str | Sequence[str],
    celltype_col: str | None = None,
    **options: Any,
) -> Evaluation:
    """Score predicted cells against real ones.

    Parameters
    ----------
    predicted, real
        Cells, [n, G] and [m, G], with log1p expression of the same genes in ``X``. The real cells hold
        controls; the predicted ones may.
    pert_col
        Column of ``obs`` with the perturbation.
    control_pert
        Label of the controls, or several.
    celltype_col
        Column of ``obs`` with the cell line; None: all cells are of one line.
    **options
        Further arguments of `statetx.evaluation.standalone.evaluate_files.evaluate_files`, such as
        ``profile`` and ``embed_key``.

    Returns
    -------
    Evaluation
        The tables that ``statetx evaluate`` writes, with a column ``cell_line``.

    Raises
    ------
    StatetxError
        Genes, labels or scale do not fit: the error says what to do.

    Examples
    --------
    >>> tables = evaluate(
    ...     cells, cells, pert_col="drug_dose", control_pert="DMSO_TF_00", celltype_col="cell_line",
    ...     profile="minimal", scale="counts",
    ... )
    >>> float(tables.results["mae"].max())
    0.0
    """
    from statetx.evaluation.cell_eval.tables import STATISTICS, describe
    from statetx.evaluation.standalone.evaluate_files import evaluate_files

    with tempfile.TemporaryDirectory() as home:
        paths = Path(home) / "predicted.h5ad", Path(home) / "real.h5ad"
        for path, cells in zip(paths, (predicted, real), strict=True):
            cells.write_h5ad(path)
        found = evaluate_files(
            *paths, pert_col, control_pert, celltype_col, out=Path(home) / "out", **options
        )
    results, aggregates, scores = [], [], []
    for line, result in found.items():
        table = pd.DataFrame({"perturbation": result.labels, **result.columns})
        results.append(table.assign(cell_line=line))
        described = {name: describe(column) for name, column in result.columns.items()}
        aggregate = {name: [one[key] for key in STATISTICS] for name, one in described.items()}
        aggregates.append(
            pd.DataFrame({"statistic": list(STATISTICS), **aggregate}).assign(cell_line=line)
        )
        if result.scores is not None:
            scores.append(result.scores.assign(cell_line=line))
    joined = (
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
        for tables in (results, aggregates, scores)
    )
    return Evaluation(*joined)


def read_verdict(path: str | Path) -> Verdict:
    """Read ``verdict.json`` of an experiment.

    Parameters
    ----------
    path
        The file, or the directory that holds it.

    Raises
    ------
    ResultsError
        The file is missing, damaged or of another format.

    Examples
    --------
    >>> read_verdict(verdict_file).comparisons[0].call
    'BETTER'
    """
    from statetx.evaluation.verdict.contract import Verdict

    path = Path(path)
    return Verdict.read(path / "verdict.json" if path.is_dir() else path)


def inspect(*paths: str | Path, full: bool = True) -> Report:
    """Describe h5ad files and collect everything that would stop packing.

    Parameters
    ----------
    *paths
        h5ad files of one data set.
    full
        Check every value, not only a sample of rows.

    Returns
    -------
    Report
        ``files`` (cells, genes, columns, scale), ``design`` and ``problems``.

    Examples
    --------
    >>> report = inspect(cells_file)
    >>> report.files[0].n_cells, report.problems
    (293, [])
    """
    from statetx.data.inspection.inspect import inspect as work

    return work(list(paths), full=full)
