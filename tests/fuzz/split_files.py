"""Generated splits: settings that people write, and labels as data sets have them.

Every split that is accepted is written as TOML and read back: it must be the same split.
"""

from __future__ import annotations

import csv
import random
import tomllib
from pathlib import Path
from typing import Any

import damage
import pandas as pd
import samples
import yaml
from engine import Kind, Result, Wrong, valid

GENERATED: dict[str, dict[str, Any]] = {
    "dc_block": {"drug_fraction": 0.3, "line_fraction": 0.3},
    "pair_random": {},
    "context_fewshot": {"lines": ["L01"]},
    "line_out": {"line_fraction": 0.2},
    "drug_out": {"drugs": ["Drug01"]},
    "both_out": {},
    "dose_interpolate": {},
    "dose_extrapolate": {"min_cells": 2},
    "plate_out": {"plates": ["p1"]},
    "moa_out": {"group": "moa", "drug_table": {"path": "drugs.csv", "smiles": "smiles"}},
    "line_folds": {"k": 3},
    "perturbation_folds": {"k": 3},
}
"""One split of each generator."""


def kinds() -> list[Kind]:
    """Return the kinds of generated splits."""
    return [
        Kind("split-settings", _sample, in_settings, read, valid),
        Kind("split-labels", _sample, in_labels, read, valid),
        Kind("split-spellings", _sample, in_spellings, read, valid),
    ]


def _sample(home: Path) -> None:
    drugs = [f"Drug{i:02d}" for i in range(1, 7)]
    plates = ("p1", "p2", "p3")
    labels = {
        f"{drug}_{dose}": plates[i % 3] for i, drug in enumerate(drugs) for dose in (0.5, 1, 5)
    }
    rows = [
        {"line": line, "perturbation": label, "n_cells": 20, "batch": plate}
        for line in (f"L{i:02d}" for i in range(1, 7))
        for label, plate in (*labels.items(), *((samples.CONTROL, plate) for plate in plates))
    ]
    pd.DataFrame(rows).to_csv(home / "conditions.csv", index=False)
    smiles = ["CCO", "c1ccccc1", "CC(=O)O", "CCN", "CCC", "CCCl"]
    table = pd.DataFrame({"drug": drugs, "smiles": smiles, "moa": list("aabbcc")})
    table.to_csv(home / "drugs.csv", index=False)
    _write(home, "dc_block", GENERATED["dc_block"])


def _write(home: Path, generator: str, settings: Any) -> None:
    data = {"files": "simulate", "control_pert": samples.CONTROL, "scale": "counts"}
    split = {"dataset": "tiny", "generator": generator, **settings}
    content = {
        "datasets": {"tiny": data},
        "splits": {"one": split},
        "models": {"context_mean": {"kind": "context_mean"}},
        "experiments": {"main": {"splits": ["one"], "models": ["context_mean"]}},
    }
    (home / "config.yaml").write_text(yaml.safe_dump(content))


def in_settings(home: Path, rng: random.Random) -> str:
    """Change a setting of some generator."""
    generator = rng.choice(sorted(GENERATED))
    common = {"seed": 0, "min_cells": 0, "controls": "shared", "val_line_fraction": 0.2}
    settings = {**GENERATED[generator]}
    name = rng.choice(sorted(common))
    if name != "val_line_fraction" or "line" in generator or "block" in generator:
        settings.setdefault(name, common[name])
    changed, how = damage.in_tree(settings, rng)
    _write(home, generator, changed)
    return f"{generator}: {how}"


def in_labels(home: Path, rng: random.Random) -> str:
    """Rename a label, a drug, a line or a plate in the table of conditions."""
    generator = rng.choice(sorted(set(GENERATED) - {"moa_out"}))
    _write(home, generator, GENERATED[generator])
    path = home / "conditions.csv"
    with open(path, newline="") as handle:
        header, *rows = csv.reader(handle)
    column = rng.randrange(4)
    old, new = rng.choice(rows)[column], damage.words(rng).replace("\0", "")
    if column == 1 and rng.random() < 0.5:  # the drug at all its doses
        drug = old.rsplit("_", 1)[0]
        rows = [[*r[:1], r[1].replace(drug, new), *r[2:]] for r in rows]
    else:
        rows = [
            [new if i == column and cell == old else cell for i, cell in enumerate(r)] for r in rows
        ]
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return f"{generator}: {header[column]} {old!r} -> {new!r}"


def in_spellings(home: Path, rng: random.Random) -> str:
    """Spell a perturbation in two ways that mean the same."""
    generator = rng.choice(
        ["pair_random", "drug_out", "both_out", "perturbation_folds", "dc_block"]
    )
    settings = {} if generator == "drug_out" else GENERATED[generator]
    _write(home, generator, {**settings, "seed": rng.randrange(5)})
    path = home / "conditions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    old = rng.choice(["Drug01_0.5", "Drug02_1"])
    one, two = rng.choice(
        [
            ("geneA+geneB", "geneB+geneA"),
            ("geneA+ctrl", "ctrl+geneA"),
            (f"geneA+{samples.CONTROL}", "geneA"),
            (f"{samples.CONTROL}+geneA", "geneA"),
            ("na\u00efve", "nai\u0308ve"),
            ("geneA", "geneA "),
            ("geneA", " geneA"),
            ("[('Drug09', 0.5, 'uM')]", "[('Drug09',0.5,'uM')]"),
            ("[('Drug09', 0.5, 'uM')]", "[(np.str_('Drug09'), np.float64(0.5), np.str_('uM'))]"),
            ("Drug09_0.5", "Drug09_0.50"),
        ]
    )
    is_old = table["perturbation"] == old
    some = table["line"].isin(rng.sample(sorted(set(table["line"])), 3))
    table.loc[is_old, "perturbation"] = one
    table.loc[is_old & some, "perturbation"] = two
    table.to_csv(path, index=False)
    (home / "same").write_text(f"{one}\n{two}\n")
    return f"{generator}: {one!r} is {two!r}"


def _one_role(home: Path, rows: list[list[str]], apart: bool) -> None:
    """Check that two spellings have one role in a line; with `apart`, that none trains and tests."""
    names = (home / "same").read_text().splitlines() if (home / "same").exists() else []
    found = {(line if not apart else "", role) for line, label, role in rows if label in names}
    for line in {line for line, _ in found}:
        roles = {role for where, role in found if where == line}
        if roles > {"train", "test"} or roles == {"train", "test"}:
            raise Wrong(f"one perturbation trains and tests | {names} {line}")


def read(home: Path) -> Result:
    """Make the split, write it, read it back."""
    from statetx.config import load
    from statetx.config.splits import TomlSplit
    from statetx.splits.lint.lint import Facts
    from statetx.splits.sources import from_data
    from statetx.splits.split import checked, made_from
    from statetx.splits.toml import write_toml
    from statetx.stages import parameters

    with samples.inside(home):
        cfg = load("config.yaml")
        source = from_data(Path("conditions.csv"), [samples.CONTROL])
        out: dict[str, Any] = {}
        for name in cfg.split_names():
            settings, fold = cfg.split(name)
            known, facts = parameters.split_facts(cfg, name), Facts(source.controls, one_hot=False)
            table, report = checked(source.conditions, settings, fold, None, known, facts)
            report.findings.raise_errors(name)
            out[name] = _roles(table)
            generator = getattr(settings, "generator", "")
            _one_role(Path(), out[name], generator in ("drug_out", "perturbation_folds"))
            origin = made_from(table, settings, fold)
            write_toml(table, source.conditions, "tiny", "store", Path("split.toml"), origin)
            content = tomllib.loads(Path("split.toml").read_text(encoding="utf-8"))
            toml = TomlSplit(dataset="tiny", toml="split.toml", controls=settings.controls)
            again, _ = checked(source.conditions, toml, None, content, {}, facts)
            if _roles(again) != out[name]:
                odd = sorted(set(map(tuple, _roles(again))) ^ set(map(tuple, out[name])))[0]
                raise Wrong(f"another split when it is read back | {odd}")
    return out


def _roles(table: pd.DataFrame) -> list[list[str]]:
    used = table[table["role"] != "none"]
    return sorted(used[["line", "perturbation", "role"]].astype(str).to_numpy().tolist())
