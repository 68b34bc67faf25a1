"""Generators of splits: they decide which conditions train, validate and test.

The unit that is held out is the drug, with all its doses, or the line. If single doses were held
out, the neighbouring doses of the same drug would train. The test would then measure interpolation
along a dose curve, not the response to a new drug in a new line. The generator `dose` measures the
former on purpose. docs/splits.md says which generator answers which question.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from statetx.config import splits as config
from statetx.core.errors import SplitError
from statetx.data.store.plan import COLUMNS
from statetx.splits.generators.draw import count, count_val, ordered, parts
from statetx.splits.generators.groups import closest, merged
from statetx.splits.grid import LEFT_OUT, Grid, Known

TRAINS = "outside of what is held out"
BETWEEN = "\x1f"
"""Separator between the names of a pair. It is not NUL, because pandas ends a text at NUL."""


def generate(
    conditions: pd.DataFrame,
    settings: config.Generated,
    fold: int | None = None,
    known: Known | None = None,
) -> pd.DataFrame:
    """Make the split that the settings describe.

    Parameters
    ----------
    conditions
        ``Store.conditions``.
    settings
        Settings of a generator; their class says what is held out.
    fold
        Number of the fold, ``0 … k-1``; None for splits without folds.
    known
        Groups and strata, if the settings use them.

    Returns
    -------
    pandas.DataFrame
        ``line, perturbation, role, reason``, sorted, one row per condition. The role is ``none``
        for a condition that is left out.

    Raises
    ------
    SplitError
        The settings do not fit the conditions.
    """
    known = known or Known()
    grid = Grid.from_conditions(conditions, known.reading).by_compound(known.structures)
    kind = settings.generator  # type: ignore[attr-defined]
    if isinstance(settings, config.Folds):
        roles = _folds(grid, settings, fold, known, "line" if kind == "line_folds" else "drug")
    else:
        roles = _GENERATORS[kind](grid, settings, known)
    table = grid.table.assign(role=roles["role"], reason=roles["reason"])
    held = table["role"].isin(["test", "val"]) & (table["n_cells"] < settings.min_cells)
    table.loc[held, "role"] = LEFT_OUT
    table.loc[held, "reason"] = f"would be held out, but has fewer than {settings.min_cells} cells"
    return table[list(COLUMNS)]


def dc_block(grid: Grid, settings: config.BlockSplit, known: Known) -> pd.DataFrame:
    """Hold out some drugs in some lines: the test drugs are seen in other lines, and vice versa.

    Test = test drugs x test lines, val = other drugs x other lines, the rest trains. There is no
    validation block if one of its fractions is 0.
    """
    line, drug = grid.table["line"], grid.table["drug"]
    validates = settings.val_drug_fraction > 0 and settings.val_line_fraction > 0
    lines = _lines(grid, settings, known, settings.val_line_fraction * validates, rest=0)
    drugs = _drugs(grid, settings, known, settings.val_drug_fraction * validates, lines[2], rest=0)
    return _roles(
        grid,
        (line.isin(lines[0]) & drug.isin(drugs[0]), "test", "drug and line are in the test block"),
        (line.isin(lines[1]) & drug.isin(drugs[1]), "val", "drug and line are in the val block"),
    )


def pair_random(grid: Grid, settings: config.PairRandom, known: Known) -> pd.DataFrame:
    """Hold out random (line, drug) pairs, each with all its doses."""
    pair = grid.table["line"] + BETWEEN + grid.table["drug"]
    by_drug, by_line = known.strata.get("drugs"), known.strata.get("lines")
    strata = None
    if by_drug or by_line:
        strata = {
            f"{line}{BETWEEN}{drug}": (
                f"{(by_line or {}).get(line)}{BETWEEN}{(by_drug or {}).get(drug)}"
            )
            for line, drug in (name.split(BETWEEN) for name in pair.unique())
        }
    order = ordered(pair.unique().tolist(), settings.seed, "pair", strata)
    n_test = count(settings.fraction, len(order), "pairs of line and drug", "fraction")
    n_val = count_val(settings.val_fraction, len(order))
    test, val, _ = parts(order, n_test, n_val, "pairs", "fraction, val_fraction")
    return _roles(
        grid,
        (pair.isin(test), "test", "the pair of line and drug was drawn for the test"),
        (pair.isin(val), "val", "the pair of line and drug was drawn for validation"),
    )


def context_fewshot(grid: Grid, settings: config.ContextFewshot, known: Known) -> pd.DataFrame:
    """Train some lines on a few of their drugs only; the drugs are drawn separately per line."""
    lines = _lines(grid, settings, known)
    strata, drug, masks = _drug_strata(settings, known, lines[2]), grid.table["drug"], []
    for name in sorted(lines[0]):
        in_line = grid.table["line"] == name
        drugs = sorted(grid.table.loc[in_line, "drug"].unique())
        order = ordered(drugs, settings.seed, f"drug in {name}", strata)
        n_keep = count(settings.keep_fraction, len(order), f"drugs of {name}", "keep_fraction")
        n_val = count_val(settings.val_fraction, len(order))
        if n_keep + n_val >= len(order):
            raise SplitError(
                f"{len(order)} drugs are too few for {n_keep} training drugs, {n_val} validation "
                "drugs and at least one test drug",
                where=f"keep_fraction, val_fraction: line {name!r}",
                fix="lower the fractions",
            )
        keep, val, test = parts(order, n_keep, n_val, f"drugs of {name}", "keep_fraction")
        masks += [
            (in_line & drug.isin(test), "test", "the line keeps other drugs for training"),
            (in_line & drug.isin(val), "val", "the drug validates in this line"),
            (in_line & drug.isin(keep), "train", "the line keeps this drug for training"),
        ]
    return _roles(grid, *masks)


def line_out(grid: Grid, settings: config.LineOut, known: Known) -> pd.DataFrame:
    """Hold out all conditions of some lines."""
    line = grid.table["line"]
    test, val, _ = _lines(grid, settings, known, settings.val_line_fraction)
    return _roles(
        grid,
        (line.isin(test), "test", "the line is held out"),
        (line.isin(val), "val", "the line validates"),
    )


def drug_out(grid: Grid, settings: config.DrugOut, known: Known) -> pd.DataFrame:
    """Hold out some drugs, with all their doses, in all lines."""
    drug = grid.table["drug"]
    test, val, _ = _drugs(grid, settings, known, settings.val_drug_fraction)
    return _roles(
        grid,
        (drug.isin(test), "test", "the drug is held out"),
        (drug.isin(val), "val", "the drug validates"),
    )


def both_out(grid: Grid, settings: config.BothOut, known: Known) -> pd.DataFrame:
    """Hold out drugs and lines together: training, validation and test share neither.

    Conditions that mix them, such as a test drug in a training line, are left out.
    """
    line, drug = grid.table["line"], grid.table["drug"]
    validates = settings.val_drug_fraction > 0 and settings.val_line_fraction > 0
    lines = _lines(grid, settings, known, settings.val_line_fraction * validates)
    drugs = _drugs(grid, settings, known, settings.val_drug_fraction * validates, lines[2])
    why = "drug and line are both new in the "
    both = [line.isin(lines[i]) & drug.isin(drugs[i]) for i in range(3)]
    return _roles(
        grid,
        (both[0], "test", why + "test"),
        (both[1], "val", why + "validation"),
        (~both[2], LEFT_OUT, "only one of drug and line is held out"),
    )


def dose(grid: Grid, settings: config.DoseSplit, known: Known) -> pd.DataFrame:
    """Hold out the middle or the top dose of some drugs; their other doses train."""
    table = grid.table
    between = settings.generator == "dose_interpolate"
    doses = table.dropna(subset=["dose"]).groupby("drug")["dose"].agg(lambda d: sorted(set(d)))
    held = {
        str(drug): values[len(values) // 2] if between else values[-1]
        for drug, values in doses.items()
        if len(values) >= (3 if between else 2)
    }
    if not held:
        raise SplitError(
            f"no drug has {'three doses' if between else 'two doses'}",
            where="generator",
            fix="end labels in _DOSE, such as Drug_0.5, and read them with `labels: drug_dose` of "
            "the data set; or use another generator",
        )
    lines = set(grid.names("line"))
    if settings.line_fraction < 1:
        lines = _lines(grid, settings, known)[0]
    strata = known.strata.get("drugs")
    order = ordered(held, settings.seed, "drug", strata)
    n_test = count(settings.drug_fraction, len(order), "drugs with such a dose", "drug_fraction")
    n_val = count_val(settings.val_drug_fraction, len(order))
    keys = "drug_fraction, val_drug_fraction"
    test, val, _ = parts(order, n_test, n_val, "drugs with such a dose", keys, rest=0)
    at_dose = table["line"].isin(lines) & (table["dose"] == table["drug"].map(held))
    name = "middle" if between else "top"
    return _roles(
        grid,
        (
            at_dose & table["drug"].isin(test),
            "test",
            f"the {name} dose of a drug drawn for the test",
        ),
        (at_dose & table["drug"].isin(val), "val", f"the {name} dose of a drug drawn to validate"),
    )


def plate_out(grid: Grid, settings: config.PlateOut, known: Known) -> pd.DataFrame:
    """Hold out every condition that has cells on some plates."""
    batches = grid.batches
    plates = sorted(batches["batch"].unique())
    if settings.plates is not None:
        chosen = grid.check(settings.plates, "batch", "plates")
        rest = [name for name in plates if name not in chosen]
        order = [*chosen, *ordered(rest, settings.seed, "plate")]
        n_test = len(chosen)
    else:
        order = ordered(plates, settings.seed, "plate")
        n_test = count(settings.plate_fraction, len(plates), "plates", "plate_fraction")
    n_val = count_val(settings.val_plate_fraction, len(plates))
    test, val, _ = parts(order, n_test, n_val, "plates", "plate_fraction, val_plate_fraction")
    index = _named(grid, grid.table)
    on = [
        index.isin(_named(grid, part))
        for part in (batches[batches["batch"].isin(names)] for names in (test, val))
    ]
    if on[0].all():
        raise SplitError(
            f"every condition has cells on {sorted(test)}, so nothing is left to train on",
            where="plates",
            fix="use another generator: replicate plates cannot be held out condition by condition",
        )
    return _roles(
        grid,
        (on[0], "test", "has cells on a plate that is held out"),
        (on[1], "val", "has cells on a plate that validates"),
    )


def _named(grid: Grid, table: pd.DataFrame) -> pd.MultiIndex:
    """Return the line and the canonical name of each condition of a table."""
    names = {label: grid.reading.canonical(label) for label in table["perturbation"].unique()}
    return pd.MultiIndex.from_arrays([table["line"], table["perturbation"].map(names)])


def group_out(grid: Grid, settings: config.GroupOut, known: Known) -> pd.DataFrame:
    """Hold out whole groups of drugs; drugs without a group train.

    Groups are drawn in random order. Each is taken if it brings the test closer to its share of
    drugs.
    """
    drug, names = grid.table["drug"], grid.names("drug")
    members: dict[str, list[str]] = {}
    groups = merged(grid, known)
    for name in names:
        if name in groups:
            members.setdefault(groups[name], []).append(name)
    n_test = count(settings.drug_fraction, len(names), "drugs", "drug_fraction")
    n_val = count_val(settings.val_drug_fraction, len(names))
    order = ordered(members, settings.seed, "group")
    test = closest(order, members, n_test)
    val = closest([name for name in order if name not in test], members, n_val)
    group = drug.map(groups)
    few = sum(map(len, members.values())) < n_test + n_val
    if few or not test or (n_val and not val) or group.isin(test | val).all():
        raise SplitError(
            f"the {len(order)} groups of {len(names)} drugs do not give {n_test} test drugs, "
            f"{n_val} validation drugs, and drugs to train on",
            where="drug_fraction, val_drug_fraction",
            fix="use finer groups or other fractions",
        )
    return _roles(
        grid,
        (group.isin(test), "test", "the group of the drug is held out"),
        (group.isin(val), "val", "the group of the drug validates"),
    )


def _folds(
    grid: Grid, settings: config.Folds, fold: int | None, known: Known, unit: str
) -> pd.DataFrame:
    """Hold out the lines or drugs of one fold; the next fold validates."""
    names, k = grid.names(unit), settings.k
    if k > len(names):
        raise SplitError(
            f"{k} folds are too many for {len(names)} {unit}s",
            where="k",
            fix=f"use at most k: {len(names)} (leave one out)",
        )
    if fold is None or not 0 <= fold < k:
        raise SplitError(f"no fold {fold!r}", where="fold", fix=f"give a number from 0 to {k - 1}")
    if settings.val and k == 2:
        raise SplitError(
            "with two folds, one tests, the other validates and nothing trains",
            where="k",
            fix="use k: 3 or more, or val: false",
        )
    order = ordered(names, settings.seed, unit, known.strata.get(f"{unit}s"))
    folds = np.array_split(np.array(order, dtype=object), k)
    column = grid.table[unit]
    validates = column.isin(folds[(fold + 1) % k]) & settings.val
    return _roles(
        grid,
        (column.isin(folds[fold]), "test", f"the {unit} is in fold {fold}, which tests"),
        (validates, "val", f"the {unit} is in the next fold, which validates"),
    )


def _lines(
    grid: Grid, settings: Any, known: Known, val_share: float = 0, rest: int = 1
) -> tuple[set[str], set[str], set[str]]:
    """Return the test lines, the validation lines and the remaining lines."""
    names, strata = grid.names("line"), known.strata.get("lines")
    given = getattr(settings, "lines", None)
    order = ordered(names, settings.seed, "line", strata)
    if given is not None:
        grid.check(given, "line", "lines")
        order = [*given, *(name for name in order if name not in given)]
    n = len(given) if given else count(settings.line_fraction, len(names), "lines", "line_fraction")
    keys = "line_fraction, val_line_fraction"
    return parts(order, n, count_val(val_share, len(names)), "lines", keys, rest)


def _drugs(
    grid: Grid,
    settings: Any,
    known: Known,
    val_share: float,
    training_lines: Collection[str] = (),
    rest: int = 1,
) -> tuple[set[str], set[str], set[str]]:
    """Return the test drugs, the validation drugs and the remaining drugs."""
    names, strata = grid.names("drug"), _drug_strata(settings, known, training_lines)
    given = getattr(settings, "drugs", None)
    order = ordered(names, settings.seed, "drug", strata)
    if given is not None:
        given = grid.check(given, "drug", "drugs")
        order = [*given, *(name for name in order if name not in given)]
    n = len(given) if given else count(settings.drug_fraction, len(names), "drugs", "drug_fraction")
    keys = "drug_fraction, val_drug_fraction"
    return parts(order, n, count_val(val_share, len(names)), "drugs", keys, rest)


def _drug_strata(
    settings: Any, known: Known, training_lines: Collection[str]
) -> Mapping[str, str] | None:
    if settings.stratify.drugs != "effect":
        return known.strata.get("drugs")
    if known.effect is None:
        raise SplitError(
            "strata by effect need cells, but only counts of cells are given",
            where="stratify.drugs",
            fix="pack the data first, or name a column",
        )
    if not training_lines:
        raise SplitError(
            "no line trains with all its drugs, so effects cannot be measured without test cells",
            where="stratify.drugs: effect",
            fix="hold out fewer lines, or name a column",
        )
    return known.effect(training_lines)


def _roles(grid: Grid, *masks: tuple[Any, str, str]) -> pd.DataFrame:
    """Return role and reason of every condition, given by the first mask that is true for it."""
    chosen = [np.asarray(mask) for mask, _, _ in masks]
    out = {
        "role": np.select(chosen, [role for _, role, _ in masks], "train"),
        "reason": np.select(chosen, [reason for _, _, reason in masks], TRAINS),
    }
    return pd.DataFrame(out, index=grid.table.index, dtype=object)


_GENERATORS: dict[str, Any] = {
    "dc_block": dc_block,
    "pair_random": pair_random,
    "context_fewshot": context_fewshot,
    "line_out": line_out,
    "drug_out": drug_out,
    "both_out": both_out,
    "dose_interpolate": dose,
    "dose_extrapolate": dose,
    "plate_out": plate_out,
    "moa_out": group_out,
    "scaffold_out": group_out,
}
