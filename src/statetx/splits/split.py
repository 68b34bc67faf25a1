"""The split stage: settings or TOML in; ``split.toml``, ``plan.parquet`` and ``lint.json`` out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from statetx.config import BlockSplit, LineFolds, PerturbationFolds, TomlSplit
from statetx.data.plan import write_plan
from statetx.data.store import Store, open_store
from statetx.errors import SplitError
from statetx.provenance import write_json
from statetx.splits.findings import Findings
from statetx.splits.generate import COLUMNS, generate
from statetx.splits.lint import Report, lint
from statetx.splits.toml import resolve, write_toml

Settings = BlockSplit | LineFolds | PerturbationFolds | TomlSplit


def split(
    store_dir: str | Path,
    settings: Settings,
    fold: int | None,
    toml: dict[str, Any] | None,
    out_dir: str | Path,
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
    out = Path(out_dir)
    log = Findings()
    if isinstance(settings, TomlSplit):
        if toml is None:
            raise SplitError("the content of the TOML was not given", where=settings.toml)
        where = settings.toml
        table = resolve(toml, store.conditions, control_labels(store), log)
    else:
        where = f"splits.*.generator: {settings.generator}"
        table = generate(store.conditions, settings, fold)
    log.raise_errors(where)
    report = lint(table, store.conditions, log)
    log.raise_errors(where)

    # The plan comes last: where it is, the other two are.
    name = str(store.manifest["dataset"])
    write_toml(table, store.conditions, name, str(store_dir), out / "split.toml")
    write_json(out / "lint.json", report.as_dict())
    write_plan(table[COLUMNS], out / "plan.parquet")
    return report


def lint_toml(store_dir: str | Path, toml: dict[str, Any]) -> Report:
    """Check a parsed TOML against a packed data set; write and raise nothing about the split.

    Raises
    ------
    ResultsError
        `store_dir` is no packed data set.
    """
    store = open_store(store_dir)
    log = Findings()
    table = resolve(toml, store.conditions, control_labels(store), log)
    return lint(table, store.conditions, log)


def control_labels(store: Store) -> list[str]:
    """Return the control label of a store and its aliases."""
    return [store.control, *store.manifest.get("control_aliases", [])]
