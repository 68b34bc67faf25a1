"""Predict cells set by set and write them to an h5ad file, completely or not at all."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from tqdm import tqdm

from statetx.core.digests import file_digest, versions
from statetx.core.errors import ModelError, StatetxError, did_you_mean
from statetx.core.writes import whole
from statetx.models.model_dir import LoadedModel, Predicted
from statetx.shared.expression import TARGET_SUM, bounded, largest_log1p

log = logging.getLogger("statetx.inference")

LARGEST_SET = 1500
"""Most cells per call of a model without sets; the value only limits memory."""


class Basal(Protocol):
    """Source of the control cells of a line."""

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Return the values of rows [n], float32 [n, D], with the columns of the model."""
        ...

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return the barcodes of rows [n], objects [n]."""
        ...


@dataclass(frozen=True)
class Request:
    """Cells to predict for one condition.

    Attributes
    ----------
    line, perturbation
        The condition.
    controls
        int64 [n], row of the control cell from which each predicted cell starts.
    batches
        objects [n], batch of each predicted cell.
    """

    line: str
    perturbation: str
    controls: np.ndarray
    batches: np.ndarray


def declared(model: LoadedModel, section: str, key: str) -> Any:
    """Return what ``model.json`` states about the training data, or None if it states nothing.

    Parameters
    ----------
    model
        The model.
    section, key
        Entry of ``model.json``.
    """
    entry = model.meta.get(section)
    return entry.get(key) if isinstance(entry, dict) else None


def refused(
    model: LoadedModel, conditions: list[tuple[str, str]]
) -> dict[str, list[tuple[str, str]]]:
    """Predict one cell per condition to find the conditions that a model cannot predict.

    This takes one cell per condition, and finds them before hours of prediction.

    Parameters
    ----------
    model
        The model.
    conditions
        (line, perturbation) of each.

    Returns
    -------
    dict
        Error message of the model -> the conditions with this error.
    """
    cell = np.zeros((1, int(model.meta["n_inputs"])), dtype=np.float32)
    batch = np.array(model.meta["batches"][:1], dtype=object) if model.needs_batches else None
    cannot: dict[str, list[tuple[str, str]]] = {}
    for line, perturbation in conditions:
        try:
            model.predict(cell, line, perturbation, batch)
        except StatetxError as error:
            cannot.setdefault(error.what, []).append((line, perturbation))
    return cannot


def check_batches(model: LoadedModel, requests: list[Request], where: object) -> None:
    """Check that a model with a batch encoder knows all batches.

    Parameters
    ----------
    model
        The model.
    requests
        Cells that will be predicted.
    where
        File, for messages.

    Raises
    ------
    ModelError
        It does not know a batch. Unknown batches are never replaced by others.
    """
    if not model.needs_batches:
        return
    known = [str(name) for name in model.meta["batches"]]
    cells = Counter(str(name) for request in requests for name in request.batches)
    unknown = sorted(cells.keys() - set(known))
    if unknown:
        shown = ", ".join(map(repr, unknown[:8])) + (", …" if len(unknown) > 8 else "")
        raise ModelError(
            f"the model was not trained on {len(unknown)} of {len(cells)} batches "
            f"({sum(cells[name] for name in unknown)} cells): {shown}",
            where=where,
            fix=f"{unknown[0]!r}: {did_you_mean(unknown[0], known)} Name the batch of each cell as "
            "in training (batch_col); for other batches, train a model with `batches: ignored`",
        )


def same_genes(model: LoadedModel, genes: list[str], where: object) -> None:
    """Check that genes are those of a model, in its order.

    Parameters
    ----------
    model
        The model.
    genes
        Genes of the store.
    where
        File, for messages.

    Raises
    ------
    ModelError
        Genes are missing, new, or in a different order.
    """
    if genes == model.genes:
        return
    missing = sorted(set(model.genes) - set(genes))
    extra = sorted(set(genes) - set(model.genes))
    if missing or extra:
        raise ModelError(
            f"the model predicts {len(model.genes)} genes, the store has {len(genes)}: "
            f"{len(missing)} of the model's are missing ({', '.join(missing[:5])}), "
            f"{len(extra)} are new ({', '.join(extra[:5])})",
            where=where,
            fix="use the store that the model was trained on, or train again",
        )
    at = next(i for i, (a, b) in enumerate(zip(model.genes, genes, strict=True)) if a != b)
    raise ModelError(
        f"the genes are ordered differently: number {at} is {model.genes[at]!r} in the model and "
        f"{genes[at]!r} in the store",
        where=where,
        fix="pack the data in the model's order, or train again",
    )


def write_predictions(
    out: Path,
    model: LoadedModel,
    requests: list[Request],
    basal: Callable[[str], Basal],
    provenance: dict[str, Any],
    target_sum: float = TARGET_SUM,
    also: Mapping[str, str] | None = None,
) -> None:
    """Predict all requests and write them as one h5ad file.

    - X: log1p expression, dense float32 [cells, G], contiguous. ``var_names`` are the genes of the
      model.
    - ``obsm[embed_key]``: the predicted embedding, float32 [cells, D], if the model works in one.
    - obs: perturbation, cell_line, batch, set_id (number of the set within its condition),
      control_barcode, fallback.
    - ``uns["statetx"]``: `provenance` and a description of the model, as JSON.

    A condition is split into as few sets of at most ``cell_set_len`` cells as possible, of nearly
    equal size. A set transformer predicts a last set of one or two cells worse than two sets of
    half the length. Only one set is in memory at a time.

    Parameters
    ----------
    out
        File to write, completely or not at all.
    model
        The model.
    requests
        Conditions, in the order of the file.
    basal
        Returns the control cells of a line.
    provenance
        Further entries of ``uns["statetx"]``.
    target_sum
        Target sum of the predicted expression. Values above ln(1 + target_sum), which no cell can
        have, are set to this bound; their number is logged.
    also
        Additional obs columns: name -> the column that it repeats.

    Raises
    ------
    ModelError
        The model refuses a set, does not know a batch, or predicts values that are not finite.
    """
    check_batches(model, requests, model.path)
    if hasattr(model.predictor, "bounded"):  # moves the excess above the bound to other cells
        most = largest_log1p(target_sum)
        model = replace(model, predictor=model.predictor.bounded(most))
    n_cells = sum(len(request.controls) for request in requests)
    size = model.cell_set_len or LARGEST_SET
    set_ids = np.empty(n_cells, dtype=np.int32)
    fallback = np.zeros(n_cells, dtype=bool)
    barcodes = np.empty(n_cells, dtype=object)
    done = n_bounded = 0
    with whole(out) as part, h5py.File(part, "w") as file:
        file.attrs["encoding-type"] = "anndata"
        file.attrs["encoding-version"] = "0.1.0"
        matrix = file.create_dataset("X", (n_cells, len(model.genes)), np.float32)
        matrix.attrs["encoding-type"] = "array"
        matrix.attrs["encoding-version"] = "0.2.0"
        embedded = None
        if model.takes_embedding:
            group = file.create_group("obsm")
            group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
            shape = (n_cells, int(model.meta["n_inputs"]))
            embedded = group.create_dataset(str(model.embed_key), shape, np.float32)
            embedded.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for request in tqdm(requests, "predict", unit="condition", disable=None, leave=False):
            source = basal(request.line)
            n_sets = -(-len(request.controls) // size)
            for number, cells in enumerate(
                np.array_split(np.arange(len(request.controls)), max(n_sets, 1))
            ):
                rows = request.controls[cells]
                predicted = _set(model, source.expression(rows), request, request.batches[cells])
                span = slice(done, done + len(rows))
                matrix[span], above = bounded(predicted.cells, target_sum)
                n_bounded += above
                if embedded is not None:
                    embedded[span] = predicted.embedding
                set_ids[span], fallback[span] = number, predicted.fallback
                barcodes[span] = source.names(rows)
                done = span.stop
        if done != n_cells:
            raise ModelError(f"{done} of {n_cells} cells were predicted", where=out)
        repeats = [len(request.controls) for request in requests]
        table = pd.DataFrame(
            {
                "perturbation": _labels([request.perturbation for request in requests], repeats),
                "cell_line": _labels([request.line for request in requests], repeats),
                "batch": pd.Categorical(
                    np.concatenate([request.batches for request in requests]).astype(str)
                ),
                "set_id": set_ids,
                "control_barcode": barcodes,
                "fallback": fallback,
            },
            index=pd.Index(np.arange(n_cells).astype(str), name="cell"),
        )
        for name, column in (also or {}).items():
            table[name] = table[column]
        write_elem(file, "obs", table)
        write_elem(file, "var", pd.DataFrame(index=pd.Index(model.genes, name="gene")))
        about = _about(model) | {"target_sum": target_sum, "values_bounded": n_bounded}
        text = json.dumps(about | provenance, sort_keys=True, ensure_ascii=False)
        write_elem(file, "uns", {"statetx": text})
    if n_bounded:
        log.warning(
            "%s: %d of %d predicted values exceeded ln(1 + %g) = %.4g, which no cell can have, "
            "and are set to it",
            *(out, n_bounded, n_cells * len(model.genes), target_sum, largest_log1p(target_sum)),
        )


def _set(
    model: LoadedModel, control: np.ndarray, request: Request, batches: np.ndarray
) -> Predicted:
    predicted = model.predict(control, request.line, request.perturbation, batches)
    expected = (len(control), len(model.genes))
    if predicted.cells.shape != expected or not np.isfinite(predicted.cells).all():
        raise ModelError(
            f"predicted cells of ({request.line!r}, {request.perturbation!r}) have shape "
            f"{predicted.cells.shape}, expected {expected}, or are not finite",
            where=model.path,
            fix="lower the learning rate of the model, which diverged in training, and train again",
        )
    return predicted


def _labels(names: list[str], repeats: list[int]) -> pd.Categorical:
    return pd.Categorical(np.repeat(np.asarray(names, dtype=object), repeats))


def _about(model: LoadedModel) -> dict[str, Any]:
    # model.json contains the digests of weights and genes, so its digest covers all of them.
    return {
        "format": 1,
        "model": file_digest(model.path / "model.json"),
        "kind": model.kind,
        "checkpoint": model.checkpoint,
        "control": model.control,
        "scale": "log1p",
        "versions": versions(("statetx", "numpy", "torch", "anndata")),
    }
