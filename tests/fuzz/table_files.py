"""Splits, tables and configurations that people write.

A changed file may be valid and mean something else: then the names in it, as the csv module or a parser
reads them, must be those that the product found.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import engine
import hdf5
import numpy as np
import samples
import yaml
from cell_files import COLUMNS, as_clean, meaning, rows_of
from engine import Kind, Result, Wrong, on, valid


def kinds() -> list[Kind]:
    """Return the kinds of splits, tables and configurations."""
    text, table = damage.one_of(damage.in_text), damage.one_of(damage.in_frame)
    parquet = damage.one_of(damage.in_parquet)
    toml, yaml_ = damage.one_of(damage.in_text, in_toml), damage.one_of(damage.in_text, in_yaml)
    cells = on("cells.h5ad", hdf5.in_h5ad)
    return [
        Kind("toml", samples.tables, on("split.toml", toml), lint, _toml),
        Kind("h5ad-lint", _tables_and_cells, cells, lint_cells, as_clean(lint_cells)),
        Kind("conditions-csv", samples.tables, on("conditions.csv", table), lint, _conditions),
        Kind("conditions-parquet", samples.tables, on("conditions.parquet", parquet), lint_parquet, valid),
        Kind("drug-table", samples.tables, on("drugs.csv", table), lint, valid),
        Kind("features-csv", samples.tables, on("features.csv", table), features("csv"), _labels),
        Kind("features-tsv", samples.tables, on("features.tsv", text), features("tsv"), valid),
        Kind("features-parquet", samples.tables, on("features.parquet", parquet), features("parquet"), valid),
        Kind("config", _configs, on("config.yaml", yaml_), config, valid),
    ]  # fmt: skip


def _tables_and_cells(home: Path) -> None:
    samples.tables(home)
    samples.counts_file(home)
    (home / "split.toml").write_text(
        '[datasets]\ntiny = "cells.h5ad"\n\n[training]\ntiny = "train"\n\n'
        '[fewshot."tiny.L01"]\nval = []\ntest = ["Drug02_5.0"]\n'
    )


def lint(home: Path, data: str | None = "conditions.csv") -> Result:
    """Check a split against a table of conditions, or against the cells that it names."""
    from statetx.config.splits import DrugTable
    from statetx.data.inspection.design import Columns
    from statetx.splits.lint_file import lint_file

    out: dict[str, Any] = {}
    columns = Columns(*COLUMNS, (samples.CONTROL,))
    drugs = DrugTable(path=str(home / "drugs.csv"), name="drug", smiles="smiles")
    with samples.inside(home):
        for name, plan, report in lint_file(
            home / "split.toml",
            home / data if data else None,
            columns,
            drug_table=drugs if data else None,
        ):
            json.dumps(report.as_dict())
            report.text()
            if report.failed:
                report.findings.raise_errors("split.toml")
            out[name] = plan.astype(str).to_numpy().tolist()
    return out


def _conditions(home: Path, good: Result, got: Result) -> str | None:
    """Compare the lines and labels of a plan with those of the table, as text."""
    if engine.difference(good, got) is None:
        return None
    rows = rows_of(home / "conditions.csv")
    there = {(row["line"].strip(), meaning(row["perturbation"])) for row in rows}
    found = {(row[0].strip(), meaning(row[1])) for plan in got.values() for row in plan}
    odd = sorted(found - there)
    return f"a condition that the table does not have | {odd[0]}" if odd else "other"


def lint_parquet(home: Path) -> Result:
    """Check a split against a parquet table."""
    return lint(home, "conditions.parquet")


def lint_cells(home: Path) -> Result:
    """Check a split against cells."""
    return lint(home, None)


def in_toml(path: Path, rng: random.Random) -> str:
    """Change a value of a TOML file."""
    import tomli_w

    tree, how = damage.in_tree(tomllib.loads(path.read_text()), rng)
    path.write_text(tomli_w.dumps(tree), encoding="utf-8")
    return f"{path.name}: {how}"


def _toml(home: Path, good: Result, got: Result) -> str | None:
    """Check that every label and line that the split names is there."""
    if engine.difference(good, got) is None:
        return None
    with open(home / "split.toml", "rb") as handle:
        said = tomllib.load(handle)
    rows = {str(row[0]): set() for plan in got.values() for row in plan}
    for plan in got.values():
        for line, label, *_ in plan:
            rows[line].add(meaning(label))
    for key in said.get("zeroshot", {}):
        if key.split(".", 1)[1] not in rows:
            return f"a line that is not there was accepted | {key!r}"
    for key, roles in said.get("fewshot", {}).items():
        line = key.split(".", 1)[1]
        for label in (label for labels in roles.values() for label in labels):
            if meaning(label) not in rows.get(line, ()):
                return f"a label that is not there was accepted | {key!r} {label!r}"
    return "other"


def features(kind: str) -> Callable[[Path], Result]:
    """Return a reader of tables of features."""

    def read(home: Path) -> Result:
        from statetx.training.inputs.perturbation_features import read_features

        found = read_features(home / f"features.{kind}")
        if not np.isfinite(found.values).all():
            raise Wrong("values that are not finite")
        return {"labels": found.labels, "columns": found.columns, "values": found.values}

    return read


def _labels(home: Path, good: Result, got: Result) -> str | None:
    """Compare the labels of a table of features with its first column, as text."""
    if engine.difference(good, got) is None:
        return None
    there = [next(iter(row.values())) for row in rows_of(home / "features.csv")]
    return (
        "other"
        if there == got["labels"]
        else f"other labels than written | {there} {got['labels']}"
    )


# ---------------------------------------------------------------------------------------------
# configurations


def _configs(home: Path) -> None:
    text = yaml.safe_dump(samples.CONFIG, sort_keys=False)
    (home / "config.yaml").write_text(text.replace("'", '"'))


def in_yaml(path: Path, rng: random.Random) -> str:
    """Change a value of a YAML file, or add what YAML allows and nobody wants."""
    if rng.random() < 0.15:
        text = path.read_text()
        bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n"
            for i in range(9)
        )
        more = [
            "!!python/object/apply:os.system ['true']",
            "&x [*x]",
            "? {a: b}\n: c",
            "2001-01-01",
            "<<: 3",
        ]
        how, new = rng.choice(
            [("alias bomb", bomb + "report: {title: *j}\n"), *[(m, m) for m in more]]
        )
        if how != "alias bomb":
            lines = text.splitlines()
            at = rng.randrange(len(lines))
            lines[at] = lines[at].split(":")[0] + ": " + new
            new, text = "", "\n".join(lines)
        path.write_text(text + new)
        return f"{path.name}: {how}"
    tree, how = damage.in_tree(yaml.safe_load(path.read_text()), rng)
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return f"{path.name}: {how}"


def config(home: Path) -> Result:
    """Read a configuration and ask it what the workflow asks."""
    from statetx.config import load
    from statetx.stages import packed_sources, parameters

    with samples.inside(home):
        cfg = load("config.yaml")
        out: dict[str, Any] = {"runs": [list(run) for run in cfg.runs()]}
        for name in cfg.split_names():
            out[f"split {name}"] = [parameters.split_params(cfg, name), cfg.one_hot(name)]
        for name in cfg.models:
            out[f"model {name}"] = [
                parameters.train_params(cfg, name),
                parameters.checkpoints(cfg, name),
            ]
        for name in cfg.datasets:
            out[f"data {name}"] = [
                parameters.pack_params(cfg, name),
                packed_sources.cell_lines(cfg, name),
            ]
        out["rest"] = [
            parameters.evaluate_params(cfg),
            parameters.reference_params(cfg),
            parameters.prune_params(cfg),
        ]
    json.dumps(out)
    return out
