"""The split stage: settings or TOML in; ``split.toml``, ``plan.parquet`` and ``lint.json`` out.

Only the order of the work, which no fingerprint follows (a new check must not make every split
stale): roles are decided in `statetx.splits.plan_table`, the form of the files where they are written.
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
    """Make a split, check it, and write it; nothing is written when the check finds an error.

    Parameters
    ----------
    store_dir
        The packed data set. As given here it stands in ``split.toml``, so that cell-load opens
        the split from the same working directory.
    settings
        A generator's settings, or `TomlSplit`.
    fold
        Number of the fold; None for splits without folds.
    toml
        Parsed content of the TOML file, for `TomlSplit`; its comments and its path do not matter.
    out_dir
        Where the three files go. Equal plans are equal bytes.
    known
        What tables say of drugs and lines, from `statetx.splits.compounds.drug_tables.facts_of`.
    one_hot
        Whether a model on this split knows perturbations by their id only.

    Returns
    -------
    Report
        What the split is, and what is worth knowing about it.

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

    # The plan comes last: where it is, the other two are.
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
        What the checks know of the data; the policy of controls and structures are put in here.
    effect
        Measures effects in given lines; None: there are no cells.

    Returns
    -------
    pandas.DataFrame
        The plan, with role ``none`` for what is left out. Not to be used if the report has errors.
    Report
        What was found.

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
    table, found = plan_table(
        conditions, names, settings, fold, toml, known, log, effect, facts.kind
    )
    facts = replace(
        facts,
        controls_policy=settings.controls,
        structures=found.structures,
        fewest_cells=max(facts.fewest_cells, getattr(settings, "min_cells", 0)),
    )
    return table, lint(table, conditions, log, facts)


def where(settings: Held) -> str:
    """Return where the settings of a split stand, for messages."""
    if isinstance(settings, TomlSplit):
        return settings.toml
    return f"splits.*.generator: {settings.generator}"  # type: ignore[attr-defined]


def made_from(table: pd.DataFrame, settings: Held, fold: int | None) -> dict[str, Any]:
    """Return what stands in ``split.toml`` about its origin: settings, digest of the plan, version."""
    used = table[table["role"] != LEFT_OUT].sort_values(["line", "perturbation"])
    return {
        **settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        "seed": getattr(settings, "seed", None),
        "fold": fold,
        "plan_digest": Plan(used, settings.controls).digest,
        "statetx": versions(["statetx"])["statetx"],
    }
