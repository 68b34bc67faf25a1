"""Predict perturbations for the cells of a user's file, starting from its control cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from statetx.config import BASELINES
from statetx.core.errors import ConfigError, DataError, ModelError, did_you_mean
from statetx.data.h5ad.header import columns, opened
from statetx.data.sets.control_matching import draw_controls
from statetx.inference.asked import read_asked
from statetx.inference.convert_normalisation import trained
from statetx.inference.drawn import drawn
from statetx.inference.own_cells import Expression, OwnCells
from statetx.inference.write_predictions import Request, declared, refused, write_predictions
from statetx.models.baselines.deltas import MovedControls
from statetx.models.model_dir import LoadedModel, load
from statetx.shared.labels import Spellings

ON_UNKNOWN = ("error", "skip")


def infer(
    model: str | Path,
    adata: str | Path,
    out: str | Path,
    table: str | Path | None = None,
    pert_col: str | None = None,
    celltype_col: str | None = None,
    batch_col: str | None = None,
    control_pert: str | None = None,
    embed_key: str | None = None,
    celltypes: list[str] | None = None,
    on_unknown: str = "error",
    checkpoint: str = "best",
    seed: int = 0,
    device: str = "auto",
    fill_missing: str = "error",
    total_counts_col: str | None = None,
) -> int:
    """Predict perturbations for the cells of a file.

    Predictions start from the controls of the same line in the file, of the same batch if it has
    controls. They are drawn without replacement as long as there are enough. Baselines start from
    the mean of these controls; the name of the line does not matter. Genes are matched by name.
    Values are converted to the model's normalisation if that is exactly possible, see
    `convert_normalisation`. The file is only read.

    Parameters
    ----------
    model
        Model directory.
    adata
        h5ad file with control cells: the model's obsm matrix, or its genes in X as counts or log
        values.
    out
        h5ad file to write, with predicted cells only, see `write_predictions.write_predictions`.
    table
        Table of conditions: ``perturbation, cell_line[, n_cells]``. Without `n_cells`: as many
        cells as the file has of this condition, or else as many as the line has controls. Without
        a table: each (line, perturbation) of the file, with the same number of cells.
    pert_col, celltype_col, batch_col
        obs columns; None: those of the model's training data.
    control_pert
        Control label in the file; None: that of the model, or one of its aliases.
    embed_key
        obsm matrix; None: that of the model.
    celltypes
        Lines to predict; None: all.
    on_unknown
        ``error``, or ``skip``: leave out perturbations that the model was not trained on, and print
        them. This includes perturbations for which a baseline has a fallback.
    checkpoint
        ``best``, ``last`` or ``step=N``.
    seed
        Seed of the draw of controls; each condition has a draw of its own.
    device
        ``cpu``, ``cuda`` or ``auto`` (a GPU if there is one).
    fill_missing
        What happens to genes of the model that the file does not contain: see `missing.RULES`.
    total_counts_col
        obs column with the total counts of a cell over all genes; None: that of the model's
        training data, or else row sums.

    Returns
    -------
    int
        Number of predicted cells.

    Raises
    ------
    ConfigError
        An option is invalid.
    DataError
        The file or the table is not as required.
    ModelError
        The model cannot be opened, or was not trained on a perturbation.
    """
    path = Path(adata)
    if Path(out).suffix != ".h5ad":
        raise ConfigError("--out does not end in .h5ad", where=out, fix="end its name in .h5ad")
    if Path(out).exists() and path.exists() and Path(out).samefile(path):
        raise ConfigError("--out is the input file", where=out, fix="choose another name")
    if on_unknown not in ON_UNKNOWN:
        raise ConfigError(
            f"on_unknown is {on_unknown!r}",
            where="--on-unknown",
            fix=did_you_mean(on_unknown, ON_UNKNOWN),
        )
    loaded = load(model, checkpoint, device)
    with opened(path) as file:
        batch = batch_col or declared(loaded, "columns", "batch_col")
        if loaded.needs_batches and batch not in columns(file):
            raise DataError(
                f"no obs column {batch!r}: this model needs the batch of each cell",
                where=path,
                fix=f"{did_you_mean(str(batch), columns(file))} Name it with --batch-col",
            )
        if batch_col is None and batch is not None and batch not in columns(file):
            print(f"no obs column {batch!r} in {path}: controls are matched by cell line only")
            batch = None
        controls = [loaded.control, *loaded.control_aliases]
        cells = OwnCells(
            file,
            path,
            _column(loaded, pert_col, "pert_col"),
            _column(loaded, celltype_col, "cell_type_key"),
            batch,
            controls if control_pert is None else [control_pert],
            loaded.vocabulary.reading.kind,
        )
        also = {
            _column(loaded, pert_col, "pert_col"): "perturbation",
            _column(loaded, celltype_col, "cell_type_key"): "cell_line",
        }
        known = set(cells.line.names)
        for name in celltypes or []:
            if name not in known:
                raise DataError(
                    f"no cell line {name!r} in the file",
                    where=f"{path}, --celltypes",
                    fix=did_you_mean(name, cells.line.names),
                )
        existing = cells.conditions()
        requested: dict[tuple[str, str], int | None] = dict(existing)
        if table is not None:
            labels = {*loaded.perturbations, *(label for _, label in existing)}
            requested = read_asked(
                Path(table),
                cells.line.names,
                labels,
                {*controls, control_pert},
                loaded.vocabulary.reading,
            )
        if celltypes:
            requested = {key: n for key, n in requested.items() if key[0] in celltypes}
        requested = _predictable(loaded, requested, on_unknown, table or path)
        real = _real_cells(loaded, existing)
        requests = [
            _request(cells, line, label, n, real(line, label), seed)
            for (line, label), n in requested.items()
        ]
        rows = np.unique(np.concatenate([request.controls for request in requests]))
        lines = sorted({request.line for request in requests})
        basal = Expression(
            cells,
            rows,
            loaded,
            embed_key,
            {line: np.sort(cells.controls(line).rows) for line in lines},
            isinstance(loaded.predictor, MovedControls),
            fill_missing,
            total_counts_col,
        )
        if isinstance(loaded.predictor, MovedControls):
            loaded = replace(loaded, predictor=loaded.predictor.with_controls(basal.control_means))
        provenance: dict[str, Any] = {"stage": "infer", "seed": seed, "input": path.name}
        provenance["controls"] = drawn(cells, requests, batch)
        if basal.report:
            provenance["expression"] = basal.report
        target_sum = trained(loaded).target_sum
        write_predictions(
            Path(out), loaded, requests, lambda _: basal, provenance, target_sum, also
        )
    return sum(len(request.controls) for request in requests)


def _column(model: LoadedModel, given: str | None, key: str) -> str:
    name = given or declared(model, "columns", key)
    if name is None:
        option = "--pert-col" if key == "pert_col" else "--celltype-col"
        raise ConfigError(
            f"the model does not say which obs column it calls {key}",
            where=model.path / "model.json",
            fix=f"name the column of your file with {option}",
        )
    return str(name)


def _predictable(
    model: LoadedModel,
    requested: dict[tuple[str, str], int | None],
    on_unknown: str,
    where: str | Path,
) -> dict[tuple[str, str], int | None]:
    """Return the conditions whose perturbation the model knows; refuse the others, or print them.

    Baselines would predict any label with a coarser mean. In a user's list of drugs, a label
    without training cells is usually misspelt, so such labels are unknown for baselines too.
    """
    if not requested:
        raise DataError(
            "there is nothing to predict: no condition was asked for",
            where=where,
            fix="give a --table of conditions, or cells with other labels than the control",
        )
    vocabulary = [label for label in model.perturbations if label != model.control]
    untrained = set(model.meta.get("perturbations_untrained", []))
    has = "has no features of" if model.knows_features else "was not trained on"
    labels = sorted({label for _, label in requested})
    spelling_of = {label: model.vocabulary.find(label) for label in labels}
    known = [pair for pair in requested if spelling_of[pair[1]] in set(vocabulary)]
    cannot = {label for pairs in refused(model, known).values() for _, label in pairs}
    unknown = [x for x in labels if spelling_of[x] not in set(vocabulary) or x in cannot]
    if unknown and on_unknown == "error":
        shown = ", ".join(repr(label) for label in unknown[:10])
        raise ModelError(
            f"the model {has} {len(unknown)} of {len(labels)} perturbations: {shown}",
            where=where,
            fix=f"{unknown[0]!r}: {did_you_mean(unknown[0], vocabulary)} "
            "--on-unknown skip leaves such perturbations out"
            + (
                "; a baseline could only predict them from other perturbations or doses, and "
                "an unknown label is usually misspelt"
                if model.kind in BASELINES
                else ""
            ),
        )
    for label in unknown:
        print(f"skipped: the model {has} the perturbation {label!r}")
    respelt = [
        f"{x!r} is {spelling!r}"
        for x, spelling in spelling_of.items()
        if x != spelling and x not in unknown
    ]
    if respelt:
        more = "; …" if len(respelt) > 10 else ""
        print(f"spelt differently than in the model: {'; '.join(respelt[:10])}{more}")
    for label in labels:
        if spelling_of[label] in untrained:
            print(f"predicted from its features only, never trained: {label!r}")
    kept = {pair: n for pair, n in requested.items() if pair[1] not in unknown}
    if not kept:
        raise ModelError(
            f"the model was trained on none of the {len(labels)} perturbations",
            where=where,
            fix=f"{labels[0]!r}: {did_you_mean(labels[0], vocabulary)}",
        )
    return kept


def _request(
    cells: OwnCells, line: str, label: str, n: int | None, real: tuple[str, int] | None, seed: int
) -> Request:
    """Draw the controls of one condition, in the batches of its real cells if the file has some.

    Parameters
    ----------
    cells, line, label, n, seed
        The file, the condition, its number of cells (None: not stated), and the seed.
    real
        Label of real cells of the condition in the file, and their number; None: no such cells.
    """
    controls = cells.controls(line)
    if real is not None and n in (None, real[1]):
        batches = cells.batches_of(line, real[0])
    else:  # no such cells were measured: any control of the line, and the batch of that control
        batches = np.full(n or len(controls.rows), "", dtype=object)
    rows = controls.rows[draw_controls(controls.name, controls.runs, batches, seed, label)]
    return Request(line, label, rows, batches if batches[0] else cells.batch.values_at(rows))


def _real_cells(
    model: LoadedModel, existing: dict[tuple[str, str], int]
) -> Callable[[str, str], tuple[str, int] | None]:
    """Return a function that finds real cells of a condition, also under another spelling."""
    spellings = Spellings(model.vocabulary.reading.canonical, {label for _, label in existing})

    def find(line: str, label: str) -> tuple[str, int] | None:
        for name in (label, spellings.find(label) or label):
            if (line, name) in existing:
                return name, existing[line, name]
        return None

    return find
