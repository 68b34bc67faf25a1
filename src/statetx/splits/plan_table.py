"""Which condition gets which role, by a generator or by a TOML.

Apart from the stage that calls it and from the lint: a new check must not make every split stale.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from statetx.config import BlockSplit, LineFolds, PerturbationFolds, TomlSplit
from statetx.errors import SplitError
from statetx.splits.findings import Findings
from statetx.splits.generate import generate
from statetx.splits.toml import resolve

Settings = BlockSplit | LineFolds | PerturbationFolds | TomlSplit


def plan_table(
    conditions: pd.DataFrame,
    controls: list[str],
    settings: Settings,
    fold: int | None,
    toml: dict[str, Any] | None,
    log: Findings,
) -> pd.DataFrame:
    """Give every condition its role.

    Parameters
    ----------
    conditions
        ``Store.conditions``.
    controls
        The control label and its aliases.
    settings
        A generator's settings, or `TomlSplit`.
    fold
        Number of the fold; None for splits without folds.
    toml
        Parsed content of the TOML file, for `TomlSplit`.
    log
        Gets every mistake in the TOML; with errors in it the table must not be used.

    Returns
    -------
    pandas.DataFrame
        ``line, perturbation, role, reason``.

    Raises
    ------
    SplitError
        The settings do not fit the conditions, or the content of the TOML is missing.
    """
    if not isinstance(settings, TomlSplit):
        return generate(conditions, settings, fold)
    if toml is None:
        raise SplitError("the content of the TOML was not given", where=settings.toml)
    return resolve(toml, conditions, controls, log)
