"""Predicted cells on their way to disk: set by set, whole or not at all, every row predicted."""

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
"""Cells given at once to a model whose cells do not see each other; only bounds memory."""


class Basal(Protocol):
    """Where the control cells of a line come from."""

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 [n, D], columns as the model wants them."""
        ...

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return the barcodes of the rows (objects)."""
        ...


@dataclass(frozen=True)
class Request:
    """Cells to predict for one condition.

    Attributes
    ----------
    line, perturbation
        The condition.
    controls
        Row of the basal cell of every predicted cell, int64 [n].
    batches
        Batch of every predicted cell, objects [n].
    """

    line: str
    perturbation: str
    controls: np.ndarray
    batches: np.ndarray


def declared(model: LoadedModel, section: str, key: str) -> Any:
    """Return what ``model.json`` says about its training data, or None when it does not."""
    said = model.meta.get(section)
    return said.get(key) if isinstance(said, dict) else None


def refused(
    model: LoadedModel, conditions: list[tuple[str, str]]
) -> dict[str, list[tuple[str, str]]]:
    """Ask the model for one cell of every condition.

    Returns
    -------
    dict
        The conditions that the model cannot predict, under the sentence that it says about their
        perturbation. Asking costs one cell per condition and finds out before hours of prediction.
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
    """Check, before anything is predicted, that a model with a batch encoder knows all batches.

    Raises
    ------
    ModelError
        It does not; nothing else is ever put in their place.
    """
    if not model.needs_batches:
        return
    known = [str(name) for name in model.meta["batches"]]
    cells = Counter(str(name) for request in requests for name in request.batches)
    unknown = sorted(cells.keys() - set(known))
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:8]) + (", …" if len(unknown) > 8 else "")
        raise ModelError(
            f"the model was not trained on {len(unknown)} of {len(cells)} batches "
            f"({sum(cells[name] for name in unknown)} cells): {shown}",
            where=where,
            fix=f"{unknown[0]!r}: {did_you_mean(unknown[0], known)} Name each cell's batch as in training "
            "(batch_col); for other batches, train a model with `batches: ignored`",
        )


def same_genes(model: LoadedModel, genes: list[str], where: object) -> None:
    """Check that `genes` are the model's, in its order.

    Raises
    ------
    ModelError
        Genes are missing, new, or in another order.
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
    """Predict all requests and write them as one h5ad.

    X is dense float32 [cells, G] (contiguous, log1p expression), ``var_names`` the model's genes;
    ``obsm[embed_key]`` the predicted embedding, float32 [cells, D], of a model that works in one;
    obs holds perturbation, cell_line, batch, set_id (number of the set inside its condition),
    control_barcode and fallback; ``uns["statetx"]`` is `provenance` and what is known of the model,
    as JSON. A condition is cut into as few sets of at most ``cell_set_len`` cells as possible, of
    nearly equal size: a set transformer answers worse for a last set of one or two cells than for
    two sets of half the length. One set at a time is in memory.

    Parameters
    ----------
    out
        File to write, whole or not at all.
    model
        What predicts.
    requests
        Conditions, in the order of the file.
    basal
        Gives the control cells of a line.
    provenance
        What else to say in ``uns["statetx"]``.
    target_sum
        Of the expression that the model predicts: values above ln(1 + target_sum), which no cell can have,
        are set to it, counted and said.
    also
        Further names of obs columns: ``{name: column that it repeats}``.

    Raises
    ------
    ModelError
        The model refuses a set or does not know a batch, or predicts values that are not finite.
    """
    check_batches(model, requests, model.path)
    if hasattr(model.predictor, "bounded"):  # moves what would exceed the bound to other cells
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
            for number, at in enumerate(
                np.array_split(np.arange(len(request.controls)), max(n_sets, 1))
            ):
                rows = request.controls[at]
                predicted = _set(model, source.expression(rows), request, request.batches[at])
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
        said = json.dumps(about | provenance, sort_keys=True, ensure_ascii=False)
        write_elem(file, "uns", {"statetx": said})
    if n_bounded:
        log.warning(
            "%s: %d of %d predicted values exceeded ln(1 + %g) = %.4g, which no cell can have, and are set to it",
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
            fix="the model diverged in training: lower its learning rate and train again",
        )
    return predicted


def _labels(names: list[str], repeats: list[int]) -> pd.Categorical:
    return pd.Categorical(np.repeat(np.asarray(names, dtype=object), repeats))


def _about(model: LoadedModel) -> dict[str, Any]:
    # model.json holds the digests of the weights and genes, so its digest stands for all of them.
    return {
        "format": 1,
        "model": file_digest(model.path / "model.json"),
        "kind": model.kind,
        "checkpoint": model.checkpoint,
        "control": model.control,
        "scale": "log1p",
        "versions": versions(("statetx", "numpy", "torch", "anndata")),
    }
