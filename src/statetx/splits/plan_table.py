"""Assign a role to every condition, by a generator or by a TOML.

The stage and the checks are in other modules, so that a new check does not make every split stale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pandas as pd

from statetx.config import splits as config
from statetx.core.errors import SplitError
from statetx.shared.labels import DRUG_DOSE, Reading
from statetx.splits.apply_toml import roles_from_toml
from statetx.splits.compounds.drug_tables import known_from
from statetx.splits.findings import Findings, shown
from statetx.splits.generators.generate import generate
from statetx.splits.grid import Grid, Known
from statetx.splits.toml import parse

Effect = Callable[[Collection[str]], dict[str, str]]


def plan_table(
    conditions: pd.DataFrame,
    controls: list[str],
    settings: config.Held,
    fold: int | None,
    toml: dict[str, Any] | None,
    facts: dict[str, Any],
    log: Findings,
    effect: Effect | None = None,
    kind: str = DRUG_DOSE,
) -> tuple[pd.DataFrame, Known]:
    """Give every condition its role.

    Parameters
    ----------
    conditions
        ``Store.conditions``.
    controls
        The control label and its aliases.
    settings
        Settings of a generator, or `TomlSplit`.
    fold
        Number of the fold; None for splits without folds.
    toml
        Parsed content of the TOML file, for `TomlSplit`.
    facts
        Facts about drugs and lines from `statetx.splits.compounds.drug_tables.facts_of`.
    log
        Gets every mistake in the TOML. If it contains errors, do not use the table.
    effect
        Function that measures effects in given lines; None: there are no cells.
    kind
        How labels are read, see `statetx.shared.labels.Reading`.

    Returns
    -------
    pandas.DataFrame
        ``line, perturbation, role, reason``; role ``none`` for conditions that are left out.
    Known
        Facts about drugs and lines, by their names in the data.

    Raises
    ------
    SplitError
        The settings do not fit the conditions, or the content of the TOML is missing.
    """
    reading = Reading(kind, tuple(controls))
    known = known_from(facts, Grid.from_conditions(conditions, reading), log)
    if isinstance(settings, config.Generated):
        _tell_small_strata(known, log)
        made = generate(conditions, settings, fold, replace(known, effect=effect, reading=reading))
        return made, known
    assert isinstance(settings, config.TomlSplit)
    if toml is None:
        raise SplitError("the content of the TOML was not given", where=settings.toml)
    return roles_from_toml(parse(toml, log), settings.dataset, conditions, controls, log), known


def _tell_small_strata(known: Known, log: Findings) -> None:
    for unit, strata in known.strata.items():
        values = list(strata.values())
        single = sorted({value for value in values if values.count(value) == 1})
        if single:
            log.found(
                "small-strata",
                f"{len(single)} strata of {unit} have one member, which is drawn as without "
                f"strata: {shown(single)}",
                f"stratify.{unit}",
            )
