"""Infer: a trained model on somebody's own cells. Their controls in, predicted cells out."""

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
from statetx.inference.drawn import drawn
from statetx.inference.normalisation import trained
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

    Basal cells are the controls of the same line in the file, of the same batch where it has
    some, drawn without replacement while possible. Baselines move from the mean of these controls, whatever
    the line is called. Genes are found by name. Values are brought to the model's normalisation where that
    can be done exactly, see `normalisation`. The file is only read.

    Parameters
    ----------
    model
        Model directory.
    adata
        h5ad with control cells: the model's obsm matrix, or its genes in X as counts or log values.
    out
        h5ad to write, with the predicted cells and nothing else: see `cells.write_predictions`.
    table
        Table of conditions: ``perturbation, cell_line[, n_cells]``. Without `n_cells`: as many as
        the file has of this condition, or else as many as the line has controls. Without a table:
        every (line, perturbation) of the file, as many cells as it has there.
    pert_col, celltype_col, batch_col
        obs columns; by default those of the model's training data.
    control_pert
        Control label in the file; by default the model's, or one of its aliases.
    embed_key
        obsm matrix; by default the model's.
    celltypes
        Only these lines.
    on_unknown
        ``error``, or ``skip``: leave out perturbations that the model was not trained on (also
        those for which a baseline would have a fallback), and say so.
    checkpoint
        ``best``, ``last`` or ``step=N``.
    seed
        Of the draw of controls; each condition has a draw of its own.
    device
        ``cpu``, ``cuda`` or ``auto`` (a GPU if there is one).
    fill_missing
        What becomes of genes of the model that the file lacks: see `missing.RULES`.
    total_counts_col
        obs column with the total counts of a cell over all genes; by default that of the model's training
        data, or else row sums.

    Returns
    -------
    int
        Number of predicted cells.

    Raises
    ------
    DataError
        The file or the table is not what it should be: the message says what.
    ModelError
        The model cannot be opened, or was not trained on a perturbation.
    """
    path = Path(adata)
    if Path(out).suffix != ".h5ad":
        raise ConfigError("--out is not named as an h5ad file", where=out, fix="end it in .h5ad")
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
                f"no obs column {batch!r}: this model needs the batch of every cell",
                where=path,
                fix=f"{did_you_mean(str(batch), columns(file))} Name it with --batch-col",
            )
        if batch_col is None and batch is not None and batch not in columns(file):
            print(f"no obs column {batch!r} in {path}: controls are matched by cell line only")
            batch = None
        controls = [loaded.control, *loaded.control_aliases]
        own = OwnCells(
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
        known = set(own.line.names)
        for name in celltypes or []:
            if name not in known:
                raise DataError(
                    f"no cell line {name!r} in the file",
                    where=f"{path}, --celltypes",
                    fix=did_you_mean(name, own.line.names),
                )
        existing = own.conditions()
        asked: dict[tuple[str, str], int | None] = dict(existing)
        if table is not None:
            labels = {*loaded.perturbations, *(label for _, label in existing)}
            asked = read_asked(
                Path(table),
                own.line.names,
                labels,
                {*controls, control_pert},
                loaded.vocabulary.reading,
            )
        if celltypes:
            asked = {key: n for key, n in asked.items() if key[0] in celltypes}
        asked = _predictable(loaded, asked, on_unknown, table or path)
        real = _real_cells(loaded, existing)
        requests = [
            _request(own, line, label, n, real(line, label), seed)
            for (line, label), n in asked.items()
        ]
        rows = np.unique(np.concatenate([request.controls for request in requests]))
        lines = sorted({request.line for request in requests})
        basal = Expression(
            own,
            rows,
            loaded,
            embed_key,
            {line: np.sort(own.controls(line).rows) for line in lines},
            isinstance(loaded.predictor, MovedControls),
            fill_missing,
            total_counts_col,
        )
        if isinstance(loaded.predictor, MovedControls):
            loaded = replace(loaded, predictor=loaded.predictor.with_controls(basal.control_means))
        said: dict[str, Any] = {"stage": "infer", "seed": seed, "input": path.name}
        said["controls"] = drawn(own, requests, batch)
        if basal.report:
            said["expression"] = basal.report
        target_sum = trained(loaded).target_sum
        write_predictions(Path(out), loaded, requests, lambda _: basal, said, target_sum, also)
    return sum(len(request.controls) for request in requests)


def _column(model: LoadedModel, given: str | None, key: str) -> str:
    found = given or declared(model, "columns", key)
    if found is None:
        option = "--pert-col" if key == "pert_col" else "--celltype-col"
        raise ConfigError(
            f"the model does not say which obs column it calls {key}",
            where=model.path / "model.json",
            fix=f"name the column of your file with {option}",
        )
    return str(found)


def _predictable(
    model: LoadedModel,
    asked: dict[tuple[str, str], int | None],
    on_unknown: str,
    where: str | Path,
) -> dict[tuple[str, str], int | None]:
    """Return the conditions whose perturbation the model knows; refuse, or say, the others.

    Baselines would predict any label with a coarser mean. For somebody's own list of drugs a label
    that was never trained is far more often a misspelling, so it counts as unknown for them too.
    """
    if not asked:
        raise DataError(
            "there is nothing to predict: no condition was asked for",
            where=where,
            fix="give a --table of conditions, or cells with other labels than the control",
        )
    vocabulary = [label for label in model.perturbations if label != model.control]
    untrained = set(model.meta.get("perturbations_untrained", []))
    has = "has no features of" if model.knows_features else "was not trained on"
    labels = sorted({label for _, label in asked})
    spelt = {label: model.vocabulary.find(label) for label in labels}
    known = [pair for pair in asked if spelt[pair[1]] in set(vocabulary)]
    cannot = {label for pairs in refused(model, known).values() for _, label in pairs}
    unknown = [x for x in labels if spelt[x] not in set(vocabulary) or x in cannot]
    if unknown and on_unknown == "error":
        shown = ", ".join(repr(label) for label in unknown[:10])
        raise ModelError(
            f"the model {has} {len(unknown)} of {len(labels)} perturbations: {shown}",
            where=where,
            fix=f"{unknown[0]!r}: {did_you_mean(unknown[0], vocabulary)} "
            "--on-unknown skip leaves such perturbations out"
            + (
                "; a baseline could only answer them from other perturbations or doses, and "
                "an unknown label is most often a misspelling"
                if model.kind in BASELINES
                else ""
            ),
        )
    for label in unknown:
        print(f"skipped: the model {has} the perturbation {label!r}")
    other = [f"{x!r} is {one!r}" for x, one in spelt.items() if x != one and x not in unknown]
    if other:
        more = "; …" if len(other) > 10 else ""
        print(f"in another spelling than the model's: {'; '.join(other[:10])}{more}")
    for label in labels:
        if spelt[label] in untrained:
            print(f"by its features alone, never trained: {label!r}")
    kept = {pair: n for pair, n in asked.items() if pair[1] not in unknown}
    if not kept:
        raise ModelError(
            f"the model was trained on none of the {len(labels)} perturbations",
            where=where,
            fix=f"{labels[0]!r}: {did_you_mean(labels[0], vocabulary)}",
        )
    return kept


def _request(
    own: OwnCells, line: str, label: str, n: int | None, real: tuple[str, int] | None, seed: int
) -> Request:
    """Draw the controls of one condition, in the batches of its real cells where it has some.

    Parameters
    ----------
    own, line, label, n, seed
        The file, and what is asked for.
    real
        Label of such cells in the file, and their number; None: it has none.
    """
    controls = own.controls(line)
    if real is not None and n in (None, real[1]):
        batches = own.batches_of(line, real[0])
    else:  # cells that nobody measured: any control of the line, the batch is that of the control
        batches = np.full(n or len(controls.rows), "", dtype=object)
    rows = controls.rows[draw_controls(controls.name, controls.runs, batches, seed, label)]
    return Request(line, label, rows, batches if batches[0] else own.batch.values_at(rows))


def _real_cells(
    model: LoadedModel, existing: dict[tuple[str, str], int]
) -> Callable[[str, str], tuple[str, int] | None]:
    """Return what finds the real cells of a condition, under its label or another spelling of it."""
    spelt = Spellings(model.vocabulary.reading.canonical, {label for _, label in existing})

    def find(line: str, label: str) -> tuple[str, int] | None:
        for name in (label, spelt.find(label) or label):
            if (line, name) in existing:
                return name, existing[line, name]
        return None

    return find
