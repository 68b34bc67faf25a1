"""Inputs of a network in addition to cells: features of perturbations, and batches."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from statetx.core.digests import digest
from statetx.core.errors import DataError, ModelError, did_you_mean
from statetx.data.sets.set_table import SetTable
from statetx.shared import labels as spelling
from statetx.training.inputs.perturbation_features import Features, read_features
from statetx.training.task import Task

log = logging.getLogger("statetx.training")

SHOWN = 8


def with_covariates(task: Task) -> Task:
    """Return the task with checked features of perturbations and batches for its model.

    Parameters
    ----------
    task
        The task, without features and batches.

    Raises
    ------
    ModelError, DataError
        The model will not know a test perturbation or batch, or the table of features is not valid.
    """
    if task.model.perturbation_features_file is None:
        _check_labels(task)
    else:
        task = _with_features(task)
    return task if task.model.batches == "ignored" else _with_batches(task)


def facts(task: Task) -> dict[str, Any]:
    """Return the entries of ``model.json`` about features and batches.

    Parameters
    ----------
    task
        The task, with features and batches.
    """
    entries: dict[str, Any] = {}
    if task.features is not None:
        trained = {task.store.control, *task.plan.perturbations("train")}
        path = Path(task.model.perturbation_features_file)
        entries["perturbations"] = task.vocabulary
        entries["perturbations_untrained"] = [x for x in task.vocabulary if x not in trained]
        entries["perturbation_features"] = {
            "file": path.name,
            "digest": features_digest(task),
            "columns": task.feature_names,
        }
    if task.batches is not None:
        entries["batches"] = list(task.batches)
    return entries


def features_digest(task: Task) -> str | None:
    """Return a digest of the features of all labels; None: the task has no features."""
    if task.features is None:
        return None
    return digest([task.features.shape, hashlib.sha256(task.features.tobytes()).hexdigest()])


def untrained_batches(task: Task, role: str) -> pd.DataFrame:
    """Return the rows of ``Store.conditions`` of a role whose batch has no id.

    Parameters
    ----------
    task
        The task, with batches.
    role
        ``train``, ``val`` or ``test``.
    """
    table = task.plan.table
    wanted = table.loc[table["role"] == role, ["line", "perturbation"]]
    rows = wanted.merge(task.store.conditions, on=["line", "perturbation"])
    known = set(task.batches or ())
    return rows[~rows["batch"].astype(str).isin(known)]


def _check_labels(task: Task) -> None:
    asked = task.plan.perturbations("test")
    never = [label for label in asked if label not in set(task.vocabulary)]
    if never:
        raise ModelError(
            f"{len(never)} of {len(asked)} test perturbations have no training condition, and a "
            "model of perturbation ids cannot predict labels without training: "
            f"{_shown(never, 10)}",
            where=task.plan_path,
            fix="use a split that trains on every test perturbation in other lines, give the model "
            "perturbation_features_file, or leave it out of the experiment",
        )


def _with_features(task: Task) -> Task:
    path = task.model.perturbation_features_file
    table = read_features(path)
    place = {label: i for i, label in enumerate(table.labels)}
    controls = _control_rows(task, table, path)
    missing = {
        role: [label for label in task.plan.perturbations(role) if label not in place]
        for role in ("train", "val", "test")
    }
    never = sorted({label for labels in missing.values() for label in labels})
    if never:
        counts = ", ".join(f"{len(labels)} of {role}" for role, labels in missing.items() if labels)
        drugs = {spelling.parse(label).drug for label in never} & place.keys()
        by_drug = "; the table lists drugs: give each dose a row, with the dose as a feature"
        raise ModelError(
            f"{len(never)} perturbations of the plan ({counts}) have no row of features: "
            f"{_shown(never)}",
            where=path,
            fix=f"{never[0]!r}: {did_you_mean(never[0], table.labels)} Labels must be written as "
            f"in the data{by_drug if drugs else ''}",
        )
    others = sorted(set(table.labels) - set(controls))
    control = table.values[place[controls[0]]] if controls else 0 * table.values[0]
    values = np.stack([control, *(table.values[place[label]] for label in others)])
    log.info(
        "%d features of %d perturbations; the control %s",
        values.shape[1],
        len(others),
        f"is the row {controls[0]!r}" if controls else "has no row: all its features are 0",
    )
    vocabulary = [task.store.control, *others]
    _say_equal(vocabulary, values)
    names = table.columns
    return replace(task, vocabulary=vocabulary, features=values, feature_names=names)


def _control_rows(task: Task, table: Features, path: str) -> list[str]:
    """Return the labels of the table that mean the control, the canonical one first."""
    names = [task.store.control, *task.store.manifest.get("control_aliases", [])]
    labels = [name for name in names if name in table.labels]
    labels += spelling.control_spellings(table.labels, names, task.store.reading.kind)
    rows = table.values[[table.labels.index(name) for name in labels]]
    if len(labels) > 1 and (rows != rows[0]).any():
        raise DataError(
            f"the control has several rows that disagree: {_shown(labels)}",
            where=path,
            fix=f"keep the row of {labels[0]!r}",
        )
    return labels


def _say_equal(vocabulary: list[str], values: np.ndarray) -> None:
    _, groups = np.unique(values, axis=0, return_inverse=True)
    counts = np.bincount(groups.ravel())
    same = [label for label, n in zip(vocabulary, counts[groups.ravel()], strict=True) if n > 1]
    if same:
        log.warning(
            "%d perturbations share their features with another, so that the model predicts the "
            "same for both: %s",
            len(same),
            _shown(same),
        )


def _with_batches(task: Task) -> Task:
    model = task.model
    drawn = (model.cell_set_len, model.sets, task.match_by_batch, task.seed)
    known = SetTable(task.store, task.plan, "train", *drawn).batches
    task = replace(task, batches=tuple(known))
    if len(known) == 1:
        log.warning("all training cells are of batch %r: nothing is learnt about batches", known[0])
    if model.batches == "token":  # predictions do not use the token
        return task
    never = untrained_batches(task, "test")
    if len(never):
        names = sorted(never["batch"].astype(str).unique())
        n = len(never[["line", "perturbation"]].drop_duplicates())
        raise ModelError(
            f"{n} test conditions have cells of {len(names)} batches without a training set, and a "
            f"model of batch ids cannot predict a batch without training on it: {_shown(names)}",
            where=task.plan_path,
            fix=f"{names[0]!r}: {did_you_mean(names[0], known)} Set `batches: ignored` or token, "
            "or use a split that trains on cells of every batch (sets of control cells are enough: "
            "sets.control_sets)",
        )
    return task


def _shown(names: list[str], most: int = SHOWN) -> str:
    return ", ".join(repr(name) for name in names[:most]) + (", …" if len(names) > most else "")
