"""Run the predict stage: for each test condition, as many cells as there are real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from statetx.core.errors import ModelError, ResultsError, did_you_mean
from statetx.data.sets.control_matching import draw_controls
from statetx.data.store.line_store import LineStore
from statetx.data.store.plan import Plan, read_plan
from statetx.data.store.roles import control_runs
from statetx.data.store.store import Store, open_store
from statetx.inference.convert_normalisation import trained
from statetx.inference.write_predictions import (
    Request,
    declared,
    refused,
    same_genes,
    write_predictions,
)
from statetx.models.model_dir import LoadedModel, load


def predict(
    model_dir: str | Path,
    store_dir: str | Path,
    plan_path: str | Path,
    line: str,
    checkpoint: str,
    max_cells: int,
    seed: int,
    out: str | Path,
    device: str = "auto",
    genes: str | Path | None = None,
    match_by_batch: Sequence[bool] = (True, False),
) -> None:
    """Predict the test conditions of one cell line.

    Parameters
    ----------
    model_dir
        Model directory.
    store_dir
        Packed data set.
    plan_path
        ``plan.parquet``.
    line
        Cell line; must have test conditions.
    checkpoint
        ``best``, ``last`` or ``step=N``.
    max_cells
        Most cells per condition. Evaluation limits the real cells in the same way.
    seed
        Seed of that choice and of the draw of controls. Each condition has a draw of its own, which
        does not depend on the other conditions of the plan.
    out
        h5ad file to write, see `write_predictions.write_predictions`.
    device
        ``cpu``, ``cuda`` or ``auto`` (a GPU if there is one).
    genes
        File of the genes that were chosen on the split; None: all genes.
    match_by_batch
        Levels of control matching: whether the batch must agree.

    Raises
    ------
    ModelError
        The model cannot predict some of the conditions (the message names all of them), or was
        trained on other genes, another control, another matrix or another scale.
    ResultsError
        The line is not in the store or has no test conditions.
    """
    store, plan = open_store(store_dir, genes), read_plan(plan_path)
    model = load(model_dir, checkpoint, device)
    conditions = [(line, label) for label in _labels(plan, store, line, plan_path)]
    _fits(model, store)
    cannot = refused(model, conditions)
    if cannot:
        labels = sorted({label for pairs in cannot.values() for _, label in pairs})
        shown = ", ".join(repr(label) for label in labels)
        raise ModelError(
            f"this {model.kind} model cannot predict {len(labels)} of {len(conditions)} test "
            f"perturbations of line {line!r}: {shown}",
            where=f"{model_dir}: {next(iter(cannot))}",
            fix="add them to the table of features, which does not contain them, and train again"
            if model.knows_features
            else "use a split that trains on these perturbations in other lines, since this model "
            "knows perturbations by name only; or a model that can predict unseen perturbations "
            "(the baselines can, and mark such cells)",
        )
    cells = store.line(line)
    requests = []
    runs = control_runs(cells, store.control, "test", plan.controls)
    for _, label in conditions:
        batches = cells.batches(cells.rows(label, max_cells, seed))
        controls = draw_controls(line, runs, batches, seed, label, match_by_batch)
        requests.append(Request(line, label, controls, batches))
    provenance = {"stage": "predict", "line": line, "seed": seed, "max_cells": max_cells}
    provenance |= {"plan": plan.digest, "dataset": store.manifest["dataset"]}
    target_sum = trained(model).target_sum
    basal = _StoredCells(cells, model)
    write_predictions(Path(out), model, requests, lambda _: basal, provenance, target_sum)


class _StoredCells:
    """Control cells of a line of a store."""

    def __init__(self, line: LineStore, model: LoadedModel) -> None:
        self._line = line
        self._key = model.embed_key if model.takes_embedding else None

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Return the values of rows [n], float32 [n, D], with the columns of the model."""
        if self._key is not None:
            return self._line.embedding(self._key, rows)
        return self._line.expression(rows)

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return the barcodes of rows [n], objects [n]."""
        return self._line.barcodes[rows]


def _labels(plan: Plan, store: Store, line: str, where: object) -> list[str]:
    if line not in store.lines:
        raise ResultsError(
            f"no cell line {line!r} in the store",
            where=store.directory,
            fix=did_you_mean(line, store.lines),
        )
    labels = plan.perturbations("test", line)
    if not labels:
        raise ResultsError(
            f"line {line!r} has no test conditions in this plan",
            where=where,
            fix=did_you_mean(line, plan.lines("test")),
        )
    in_store = store.conditions.loc[store.conditions["line"] == line, "perturbation"]
    absent = sorted(set(labels) - set(in_store))
    if absent:
        raise ResultsError(
            f"{len(absent)} test conditions of line {line!r} are not in the store: "
            f"{', '.join(repr(label) for label in absent[:8])}",
            where=where,
            fix="run the split stage again: the plan was made from another store",
        )
    return labels


def _fits(model: LoadedModel, store: Store) -> None:
    """Refuse a store that differs from the one that the model was trained on."""
    same_genes(model, store.genes, model.path)
    manifest = store.manifest
    pairs: list[tuple[str, Any, Any]] = [("control label", model.control, store.control)]
    if model.takes_embedding:
        widths = manifest["embeddings"]
        if model.embed_key not in widths:
            raise ModelError(
                f"the model works in the embedding {model.embed_key!r}, which the store does not "
                "contain",
                where=model.path,
                fix=f"{did_you_mean(str(model.embed_key), widths)} Add it to embed_keys of the "
                "data set",
            )
        pairs.append(("width of the embedding", model.meta["n_inputs"], widths[model.embed_key]))
    else:
        pairs.append(("matrix (embed_key)", model.embed_key, manifest["expression_key"]))
    # The scale of X does not matter if model and store use a matrix that is stored as log1p.
    if model.embed_key is None:
        pairs += [
            ("scale of X", declared(model, "scale", "input"), manifest["scale"]),
            ("target_sum", declared(model, "scale", "target_sum"), manifest["target_sum"]),
        ]
    for name, trained_with, stored in pairs:
        if trained_with != stored:
            raise ModelError(
                f"the model was trained with the {name} {trained_with!r}, the store has {stored!r}",
                where=model.path,
                fix="use the store that the model was trained on, or train again",
            )
