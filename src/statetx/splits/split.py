"""The split stage: settings or TOML in; ``split.toml``, ``plan.parquet`` and ``lint.json`` out.

Only the order of the work, which no fingerprint follows (a new check must not make every split
stale): roles are decided in `statetx.splits.plan_table`, the form of the files where they are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from statetx.config import TomlSplit
from statetx.data.plan import write_plan
from statetx.data.store import open_store
from statetx.provenance import write_json
from statetx.splits.findings import Findings
from statetx.splits.lint import Report, lint
from statetx.splits.plan_table import Settings, plan_table
from statetx.splits.toml import write_toml


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
    where = (
        settings.toml
        if isinstance(settings, TomlSplit)
        else f"splits.*.generator: {settings.generator}"
    )
    controls = [store.control, *store.manifest.get("control_aliases", [])]
    table = plan_table(store.conditions, controls, settings, fold, toml, log)
    log.raise_errors(where)
    report = lint(table, store.conditions, log, settings.controls)
    log.raise_errors(where)

    # The plan comes last: where it is, the other two are.
    name = str(store.manifest["dataset"])
    write_toml(table, store.conditions, name, str(store_dir), out / "split.toml")
    write_json(out / "lint.json", report.as_dict())
    write_plan(table, out / "plan.parquet", settings.controls)
    return report
