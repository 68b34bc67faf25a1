"""Generators of splits. The unit that is held out is the drug, with all its doses, or the line.

Holding out single doses would leave the neighbouring doses of the same drug in training: the test
would then ask for interpolation along a dose curve, not for a new drug in a new line.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from statetx.config import BlockSplit, LineFolds, PerturbationFolds
from statetx.data.plan import COLUMNS
from statetx.errors import SplitError


def dc_block(conditions: pd.DataFrame, settings: BlockSplit) -> pd.DataFrame:
    """Hold out some drugs in some lines: the test drugs are seen in other lines, and vice versa.

    Parameters
    ----------
    conditions
        ``Store.conditions``.
    settings
        Fractions (rounded to the nearest number, at least one) and seed. The test block does not
        depend on the validation fractions; no validation block when one of them is 0.

    Returns
    -------
    pandas.DataFrame
        The plan: test = test drugs x test lines, val = other drugs x other lines, the rest trains.

    Raises
    ------
    SplitError
        Too few drugs or lines for the two blocks.
    """
    table = _table(conditions)
    validates = settings.val_drug_fraction > 0 and settings.val_line_fraction > 0
    test: dict[str, set[str]] = {}
    val: dict[str, set[str]] = {}
    for unit, share, val_share in (
        ("drug", settings.drug_fraction, settings.val_drug_fraction),
        ("line", settings.line_fraction, settings.val_line_fraction),
    ):
        names = _shuffled(table, unit, settings.seed)
        n_test = _count(share, len(names))
        n_val = _count(val_share, len(names)) if validates else 0
        if n_test >= len(names) or n_test + n_val > len(names):
            raise SplitError(
                f"{len(names)} {unit}s are too few for {n_test} in the test block and {n_val} in "
                "the validation block",
                where=f"{unit}_fraction, val_{unit}_fraction",
                fix="lower the fractions, set the validation fractions to 0, or use folds",
            )
        test[unit] = set(names[:n_test])
        val[unit] = set(names[n_test : n_test + n_val])

    def role(line: str, drug: str) -> tuple[str, str]:
        if drug in test["drug"] and line in test["line"]:
            return "test", "the drug and the line are both in the test block"
        if drug in val["drug"] and line in val["line"]:
            return "val", "the drug and the line are both in the validation block"
        return "train", "outside the test block and the validation block"

    return _with_roles(table, role)


def line_folds(conditions: pd.DataFrame, settings: LineFolds, fold: int | None) -> pd.DataFrame:
    """Hold out the lines of one fold; those of the next one validate.

    Over all folds every line is tested once.

    Parameters
    ----------
    conditions
        ``Store.conditions``.
    settings
        Number of folds and seed.
    fold
        Which fold tests, ``0 … k-1``.

    Raises
    ------
    SplitError
        More folds than lines, no such fold, or nothing left to train on.
    """
    return _folds(conditions, settings, fold, "line")


def perturbation_folds(
    conditions: pd.DataFrame, settings: PerturbationFolds, fold: int | None
) -> pd.DataFrame:
    """Hold out the drugs of one fold, with all their doses, in every line; the next one validates.

    Over all folds every drug is tested once.

    Parameters
    ----------
    conditions
        ``Store.conditions``.
    settings
        Number of folds and seed.
    fold
        Which fold tests, ``0 … k-1``.

    Raises
    ------
    SplitError
        More folds than drugs, no such fold, or nothing left to train on.
    """
    return _folds(conditions, settings, fold, "drug")


def _folds(
    conditions: pd.DataFrame, settings: LineFolds | PerturbationFolds, fold: int | None, unit: str
) -> pd.DataFrame:
    table = _table(conditions)
    test, val = _fold(_shuffled(table, unit, settings.seed), settings, fold, f"{unit}s")

    def role(line: str, drug: str) -> tuple[str, str]:
        name = line if unit == "line" else drug
        if name in test:
            return "test", f"the {unit} is in fold {fold}, which tests"
        if name in val:
            return "val", f"the {unit} is in the next fold, which validates"
        return "train", f"the {unit} is in another fold"

    return _with_roles(table, role)


def generate(
    conditions: pd.DataFrame,
    settings: BlockSplit | LineFolds | PerturbationFolds,
    fold: int | None = None,
) -> pd.DataFrame:
    """Make the split that the settings describe.

    Raises
    ------
    SplitError
        The settings do not fit the conditions.
    """
    if isinstance(settings, BlockSplit):
        return dc_block(conditions, settings)
    if isinstance(settings, LineFolds):
        return line_folds(conditions, settings, fold)
    return perturbation_folds(conditions, settings, fold)


def _table(conditions: pd.DataFrame) -> pd.DataFrame:
    """Return one row per perturbed condition (batches merged)."""
    perturbed = conditions[~conditions["is_control"].astype(bool)]
    if perturbed.empty:
        raise SplitError("there are no perturbed cells, only controls", fix="check control_pert")
    return perturbed[["line", "perturbation", "drug"]].drop_duplicates(ignore_index=True)


def _shuffled(table: pd.DataFrame, unit: str, seed: int) -> list[str]:
    # Drugs and lines have streams of their own: a new drug must not redraw the lines.
    names = sorted(table[unit].unique())
    generator = np.random.default_rng([seed, *unit.encode()])
    return [names[i] for i in generator.permutation(len(names))]


def _count(share: float, n: int) -> int:
    # The nearest number, halves up; round() would take halves to the even neighbour. The small
    # term undoes binary fractions such as 0.35 * 10 = 3.4999999999999996.
    return max(1, math.floor(share * n + 0.5 + 1e-9))


def _fold(
    names: list[str], settings: LineFolds | PerturbationFolds, fold: int | None, what: str
) -> tuple[set[str], set[str]]:
    k = settings.k
    if k > len(names):
        raise SplitError(
            f"{k} folds over {len(names)} {what}",
            where="k",
            fix=f"use at most k: {len(names)} (leave one out)",
        )
    if fold is None or not 0 <= fold < k:
        raise SplitError(f"no fold {fold!r}", where="fold", fix=f"a number from 0 to {k - 1}")
    if settings.val and k == 2:
        raise SplitError(
            "with two folds, one tests, the other validates and nothing trains",
            where="k",
            fix="use k: 3 or more, or val: false",
        )
    parts = [set(part) for part in np.array_split(np.array(names, dtype=object), k)]
    return parts[fold], parts[(fold + 1) % k] if settings.val else set()


def _with_roles(table: pd.DataFrame, role: Callable[[str, str], tuple[str, str]]) -> pd.DataFrame:
    roles = [role(line, drug) for line, drug in zip(table["line"], table["drug"], strict=True)]
    out = table.assign(role=[name for name, _ in roles], reason=[why for _, why in roles])
    return out[list(COLUMNS)].sort_values(["line", "perturbation"], ignore_index=True)
