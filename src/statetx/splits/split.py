"""The split stage: write ``split.toml``, ``plan.parquet`` and ``lint.json``.

A split comes from settings or from a TOML. This module only orders the work. No code fingerprint
follows it, so that a new check does not make every split stale. `statetx.splits.plan_table` decides
the roles.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from statetx.config.splits import Held, TomlSplit
from statetx.core.digests import versions
from statetx.core.errors import SplitError, did_you_mean
from statetx.core.text_files import write_json
from statetx.data.store.plan import Plan, write_plan
from statetx.data.store.store import open_store
from statetx.splits.compounds.effects import effect_strata
from statetx.splits.findings import CHECKS, Findings
from statetx.splits.grid import LEFT_OUT
from statetx.splits.lint.lint import PURPOSE, Facts, Report, lint
from statetx.splits.plan_table import Effect, plan_table
from statetx.splits.toml import write_toml


def split(
    store_dir: str | Path,
    settings: Held,
    fold: int | None,
    toml: dict[str, Any] | None,
    out_dir: str | Path,
    known: dict[str, Any] | None = None,
    one_hot: bool = True,
) -> Report:
    """Make a split, check it, and write it; nothing is written if a check finds an error.

    Parameters
    ----------
    store_dir
        Directory of the packed data set. The path is written to ``split.toml`` as given, so that
        cell-load can open the split from the same working directory.
    settings
        Settings of a generator, or `TomlSplit`.
    fold
        Number of the fold; None for splits without folds.
    toml
        Parsed content of the TOML file, for `TomlSplit`. Its comments and its path have no effect.
    out_dir
        Directory for the three files. Equal plans give equal bytes.
    known
        Facts about drugs and lines from `statetx.splits.compounds.drug_tables.facts_of`.
    one_hot
        Whether a model on this split knows perturbations by their id only.

    Returns
    -------
    Report
        Summary of the split, and the findings of the checks.

    Raises
    ------
    SplitError
        The settings do not fit the data, the TOML has mistakes, or the split leaks.
    """
    store = open_store(store_dir)
    facts = Facts(
        store.reading.controls,
        one_hot=one_hot,
        kind=store.reading.kind,
        chosen_outside=store.manifest.get("expression_key"),
    )

    def effect(lines: Collection[str]) -> dict[str, str]:
        return effect_strata(store, lines)

    table, report = checked(store.conditions, settings, fold, toml, known or {}, facts, effect)
    report.findings.raise_errors(where(settings))

    # The plan is written last: if it exists, the other two files exist.
    out, name = Path(out_dir), str(store.manifest["dataset"])
    plan = table[table["role"] != LEFT_OUT]
    origin = made_from(table, settings, fold)
    write_toml(table, store.conditions, name, str(store_dir), out / "split.toml", origin)
    write_json(out / "lint.json", report.as_dict())
    write_plan(plan, out / "plan.parquet", settings.controls)
    return report


def checked(
    conditions: pd.DataFrame,
    settings: Held,
    fold: int | None,
    toml: dict[str, Any] | None,
    known: dict[str, Any],
    facts: Facts,
    effect: Effect | None = None,
) -> tuple[pd.DataFrame, Report]:
    """Make a split of conditions and check it, without writing anything.

    Parameters
    ----------
    conditions
        ``Store.conditions``, or a table of names and counts like it.
    settings, fold, toml, known
        As in `split`.
    facts
        Facts about the data. Controls policy, structures and min_cells are filled in from the
        settings.
    effect
        Function that measures effects in given lines; None: there are no cells.

    Returns
    -------
    pandas.DataFrame
        The plan, with role ``none`` for conditions that are left out. Do not use it if the report
        has errors.
    Report
        Summary of the split, and the findings of the checks.

    Raises
    ------
    SplitError
        The settings do not fit the data, or allow a check that does not exist.
    """
    purpose = PURPOSE.get(getattr(settings, "generator", ""), frozenset())
    log = Findings(purpose=purpose)
    if isinstance(settings, TomlSplit):
        for code in settings.allow:
            if code not in CHECKS:
                raise SplitError(
                    f"no check {code!r}", where="allow", fix=did_you_mean(code, sorted(CHECKS))
                )
        log = Findings(settings.compat, frozenset(settings.allow), purpose)
    names = list(facts.controls)
    table, details = plan_table(
        conditions, names, settings, fold, toml, known, log, effect, facts.kind
    )
    facts = replace(
        facts,
        controls_policy=settings.controls,
        structures=details.structures,
        fewest_cells=max(facts.fewest_cells, getattr(settings, "min_cells", 0)),
    )
    return table, lint(table, conditions, log, facts)


def where(settings: Held) -> str:
    """Return the place of the settings of a split, for messages."""
    if isinstance(settings, TomlSplit):
        return settings.toml
    return f"splits.*.generator: {settings.generator}"  # type: ignore[attr-defined]


def made_from(table: pd.DataFrame, settings: Held, fold: int | None) -> dict[str, Any]:
    """Return the origin of a split for ``split.toml``: settings, digest of the plan, version.

    Parameters
    ----------
    table
        The plan, with role ``none`` for conditions that are left out.
    settings
        Settings of the split.
    fold
        Number of the fold; None for splits without folds.
    """
    used = table[table["role"] != LEFT_OUT].sort_values(["line", "perturbation"])
    return {
        **settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        "seed": getattr(settings, "seed", None),
        "fold": fold,
        "plan_digest": Plan(used, settings.controls).digest,
        "statetx": versions(["statetx"])["statetx"],
    }
