"""Files that people bring: a damaged one is refused, or says what an independent reader says too.

Such a file may be valid after a change and mean something else. Where anndata, csv or a parser can say
what, the product must say the same; elsewhere only errors are judged.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import damage
import engine
import h5py
import hdf5
import numpy as np
import pandas as pd
import samples
import state
import yaml
from engine import Kind, Result
from scipy import sparse

COLUMNS = ("drug_dose", "cell_line", "batch")


def kinds(tree: Path) -> list[Kind]:
    """Return the kinds of files that people bring; some need a finished tree."""
    text, table = damage.one_of(damage.in_text), damage.one_of(damage.in_frame)
    parquet, numbers = damage.one_of(damage.in_parquet), damage.one_of(damage.in_frame)
    cells = partial(samples.model_and_cells, tree)
    return [
        Kind("h5ad-pack", samples.counts_file, _on("cells.h5ad", hdf5.in_h5ad), pack, _as_clean(pack)),
        Kind("h5ad-evaluate", samples.pair, _on("real.h5ad", hdf5.in_h5ad), evaluate, _as_clean(evaluate)),
        Kind("h5ad-predicted", samples.pair, _on("pred.h5ad", hdf5.in_h5ad), evaluate, _as_clean(evaluate, "pred.h5ad")),
        Kind("h5ad-infer", cells, _on("cells.h5ad", hdf5.in_h5ad), infer, _as_clean(infer)),
        Kind("h5ad-lint", _tables_and_cells, _on("cells.h5ad", hdf5.in_h5ad), lint_cells, _as_clean(lint_cells)),
        Kind("infer-table", cells, _on("asked.csv", table), infer, _asked),
        Kind("toml", samples.tables, _on("split.toml", damage.one_of(damage.in_text, in_toml)), lint, _toml),
        Kind("conditions-csv", samples.tables, _on("conditions.csv", table), lint, _valid),
        Kind("conditions-parquet", samples.tables, _on("conditions.parquet", parquet), lint_parquet, _valid),
        Kind("drug-table", samples.tables, _on("drugs.csv", table), lint, _valid),
        Kind("features-csv", samples.tables, _on("features.csv", numbers), features("csv"), _valid),
        Kind("features-tsv", samples.tables, _on("features.tsv", text), features("tsv"), _valid),
        Kind("features-parquet", samples.tables, _on("features.parquet", parquet), features("parquet"), _valid),
        Kind("config", _configs, _on("config.yaml", damage.one_of(damage.in_text, in_yaml)), config, _valid),
        Kind("de-csv", samples.pair, _on("real_de.csv", table), evaluate_de("csv"), _valid),
        Kind("de-parquet", samples.pair, _on("real_de.parquet", parquet), evaluate_de("parquet"), _valid),
        Kind("score", samples.pair, _on("user_agg.csv", table), score, _valid),
        *state.kinds(),
    ]  # fmt: skip


def _on(
    name: str, change: Callable[[Path, random.Random], str]
) -> Callable[[Path, random.Random], str]:
    return lambda home, rng: change(home / name, rng)


def _valid(home: Path, good: Result, got: Result) -> str | None:
    """Accept another result: nobody else can say what the file means."""
    return None if engine.difference(good, got) is None else "other"


# ---------------------------------------------------------------------------------------------
# cells


def _read_cells(path: Path) -> anndata.AnnData:
    """Return what anndata says of a file, its labels as plain text."""
    read = anndata.read_h5ad(path)
    obs = pd.DataFrame(
        {name: read.obs[name].astype(object).astype(str) for name in COLUMNS},
        index=read.obs_names.astype(str),
    )
    x = sparse.csr_matrix(read.X) if sparse.issparse(read.X) else read.X
    return anndata.AnnData(x, obs, pd.DataFrame(index=read.var_names.astype(str)))


def _read_parts(path: Path) -> anndata.AnnData:
    """Return what the parts of a file say, attributes left aside: anndata refuses some that are clear."""

    def text(values: Any) -> np.ndarray:
        return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], dtype=object)

    def labels(item: Any) -> np.ndarray:
        if isinstance(item, h5py.Dataset):
            return text(item[()])
        codes = item["codes"][()]
        if codes.min() < 0:
            raise ValueError("missing labels")
        return text(item["categories"][()])[codes.astype(int)]

    with h5py.File(path) as file:
        obs = pd.DataFrame({name: labels(file["obs"][name]) for name in COLUMNS})
        obs.index = text(file["obs"][file["obs"].attrs.get("_index", "_index")][()])
        var = text(file["var"][file["var"].attrs.get("_index", "_index")][()])
        x = file["X"]
        if isinstance(x, h5py.Group):
            parts = tuple(x[name][()] for name in ("data", "indices", "indptr"))
            x = sparse.csr_matrix(parts, shape=(len(obs), len(var)))
        return anndata.AnnData(x[()] if isinstance(x, h5py.Dataset) else x, obs, pd.DataFrame(index=var))


def _as_clean(
    read: Callable[[Path], Result], name: str = ""
) -> Callable[[Path, Result, Result], str | None]:
    """Judge a result by that of the same cells, read and written by anndata."""

    def judge(home: Path, good: Result, got: Result) -> str | None:
        if (wrong := engine.difference(good, got)) is None:
            return None
        path = home / (name or ("cells.h5ad" if (home / "cells.h5ad").exists() else "real.h5ad"))
        clean, why = None, ""
        for reader in (_read_cells, _read_parts):
            try:
                clean = clean or reader(path)
            except Exception as error:
                why = why or type(error).__name__
        if clean is None:
            return f"accepted what anndata cannot read, {why}; {wrong}"
        path.unlink()
        clean.write_h5ad(path)
        try:
            expected = read(home)
        except Exception as error:
            return f"accepted, but not as anndata reads it: {type(error).__name__} | {error}"
        wrong = engine.difference(expected, got)
        return "other" if wrong is None else f"differs from anndata's reading: {wrong}"

    return judge


def pack(home: Path) -> Result:
    """Inspect and pack a file: both must accept it, or both refuse it."""
    from statetx.config import Dataset
    from statetx.data import h5ad
    from statetx.data.pack import pack as work
    from statetx.data.store import open_store
    from statetx.errors import DataError, StatetxError

    path, out = home / "cells.h5ad", home / "pack"
    said = {"files": [str(path)], "control_pert": samples.CONTROL, "scale": "counts"}
    settings = Dataset.model_validate(said)
    problems = h5ad.inspect([path], settings).problems
    shutil.rmtree(out, ignore_errors=True)
    try:
        work([path], settings, "tiny", out)
    except StatetxError as error:
        if not problems:
            raise AssertionError(f"inspect found nothing, pack refuses: {error.what}") from None
        raise
    if problems:
        raise AssertionError(f"pack accepts, inspect refuses: {problems[0].what}")
    store = open_store(out)
    cells: dict[str, Any] = {}
    for name in store.lines:
        line = store.line(name)
        rows = np.arange(line.n_cells)
        labels = np.empty(line.n_cells, dtype=object)
        for label in store.conditions.query("line == @name")["perturbation"].unique():
            labels[line.rows(label)] = label
        values = line.counts(rows)
        for i, (cell, batch) in enumerate(zip(line.barcodes, line.batches(rows), strict=True)):
            cells.setdefault(cell, []).append((name, labels[i], batch, values[i].tobytes()))
    if not cells:
        raise DataError("no cells")
    return {"genes": store.genes, "cells": {cell: sorted(rows) for cell, rows in cells.items()}}


def evaluate(home: Path, **tables: Any) -> Result:
    """Score a pair of files."""
    from statetx.evaluation.standalone import evaluate_files

    out = home / "scores"
    shutil.rmtree(out, ignore_errors=True)
    files = (home / "pred.h5ad", home / "real.h5ad", "drug_dose", samples.CONTROL, "cell_line")
    evaluate_files(*files, out=out, profile="minimal", **tables)
    names = ("results.csv", "scores.csv")
    return {
        str(path.relative_to(out)): path.read_text()
        for name in names
        for path in sorted(out.rglob(name))
    }


def evaluate_de(kind: str) -> Callable[[Path], Result]:
    """Return a reader of a pair with a table of tests."""

    def read(home: Path) -> Result:
        from statetx.evaluation.standalone import evaluate_files

        out = home / "scores"
        files = (home / "pred.h5ad", home / "real.h5ad", "drug_dose", samples.CONTROL, "cell_line")
        table = home / f"real_de.{kind}"
        evaluate_files(*files, out=out, profile="de", with_scores=False, real_de=table)
        return {str(p.relative_to(out)): p.read_text() for p in sorted(out.rglob("results.csv"))}

    return read


def infer(home: Path) -> Result:
    """Predict for somebody's own cells."""
    from statetx.inference.infer import infer as work

    out = home / "out.h5ad"
    out.unlink(missing_ok=True)
    table = home / "asked.csv"
    work(home / "model", home / "cells.h5ad", out, table=table, device="cpu")
    read = anndata.read_h5ad(out)
    obs = {name: read.obs[name].astype(str).tolist() for name in ("perturbation", "cell_line")}
    return {**obs, "genes": list(read.var_names), "X": np.asarray(read.X)}


def _asked(home: Path, good: Result, got: Result) -> str | None:
    """Compare the conditions that were predicted with those of the table, cell by cell as text."""
    if engine.difference(good, got) is None:
        return None
    text = (home / "asked.csv").read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    wanted = sorted({(row["perturbation"], row["cell_line"]) for row in rows})
    found = sorted({*zip(got["perturbation"], got["cell_line"], strict=True)})
    return "other" if wanted == found else f"other conditions than asked for | {wanted} {found}"


# ---------------------------------------------------------------------------------------------
# splits


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
    from statetx.data.design import Columns
    from statetx.splits.lint_file import lint_file

    out: dict[str, Any] = {}
    columns = Columns(*COLUMNS, (samples.CONTROL,))
    drugs = DrugTable(path=str(home / "drugs.csv"), name="drug", smiles="smiles")
    with samples.inside(home):
        for name, plan, report in lint_file(
            home / "split.toml", home / data if data else None, columns, drug_table=drugs if data else None
        ):
            json.dumps(report.as_dict())
            report.text()
            if report.failed:
                report.findings.raise_errors("split.toml")
            out[name] = plan.astype(str).to_numpy().tolist()
    return out


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
            rows[line].add(label)
    for key in said.get("zeroshot", {}):
        if key.split(".", 1)[1] not in rows:
            return f"a line that is not there was accepted | {key!r}"
    for key, roles in said.get("fewshot", {}).items():
        line = key.split(".", 1)[1]
        for label in (label for labels in roles.values() for label in labels):
            if label not in rows.get(line, ()):
                return f"a label that is not there was accepted | {key!r} {label!r}"
    return "other"


def features(kind: str) -> Callable[[Path], Result]:
    """Return a reader of tables of features."""

    def read(home: Path) -> Result:
        from statetx.data.features import read_features

        found = read_features(home / f"features.{kind}")
        if not np.isfinite(found.values).all():
            raise AssertionError("values that are not finite")
        return {"labels": found.labels, "columns": found.columns, "values": found.values}

    return read


# ---------------------------------------------------------------------------------------------
# configurations, score tables


def _configs(home: Path) -> None:
    text = yaml.safe_dump(samples.CONFIG, sort_keys=False)
    (home / "config.yaml").write_text(text.replace("'", '"'))


def in_yaml(path: Path, rng: random.Random) -> str:
    """Change a value of a YAML file, or add what YAML allows and nobody wants."""
    if rng.random() < 0.15:
        text = path.read_text()
        bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
        )
        more = ["!!python/object/apply:os.system ['true']", "&x [*x]", "? {a: b}\n: c", "2001-01-01", "<<: 3"]
        how, new = rng.choice([("alias bomb", bomb + "report: {title: *j}\n"), *[(m, m) for m in more]])
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
    from statetx import stages
    from statetx.config import load

    with samples.inside(home):
        cfg = load("config.yaml")
        out: dict[str, Any] = {"runs": [list(run) for run in cfg.runs()]}
        for name in cfg.split_names():
            out[f"split {name}"] = [stages.split_params(cfg, name), cfg.one_hot(name)]
        for name in cfg.models:
            out[f"model {name}"] = [stages.train_params(cfg, name), stages.checkpoints(cfg, name)]
        for name in cfg.datasets:
            out[f"data {name}"] = [stages.pack_params(cfg, name), stages.cell_lines(cfg, name)]
        out["rest"] = [stages.evaluate_params(cfg), stages.reference_params(cfg), stages.prune_params(cfg)]
    json.dumps(out)
    return out


def score(home: Path) -> Result:
    """Score an aggregate table against a baseline's."""
    from statetx.evaluation.baseline_score import score_against

    table = score_against(home / "user_agg.csv", home / "baseline_agg.csv", home / "out.csv")
    return {"table": table.to_csv(index=False)}
