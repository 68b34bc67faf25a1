"""Spellings of one perturbation go together in every generator, and apart in no split."""

from __future__ import annotations

import itertools
import json
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conditions import store_of

from statetx.cli import main as cli
from statetx.config import splits as config
from statetx.core.errors import SplitError
from statetx.shared.labels import Reading
from statetx.splits.compounds.drug_tables import known_from
from statetx.splits.findings import Findings
from statetx.splits.generators.generate import generate
from statetx.splits.grid import Grid, Known
from statetx.splits.sources import source_from

GENES = ["KLF1", "CEBPA", "CEBPB", "SPI1", "GATA1", "MYC"]
DOUBLES = [f"{a}+{b}" for a, b in itertools.permutations(GENES, 2)]
DOSED = [
    text for i in range(8) for text in (f"Drug{i}_0.5", f"Drug{i}_500nM", f"Drug{i}_5.0", f"Drug{i} _5",
                                        f"Drug{i}_50")
]  # fmt: skip
SETTINGS: dict[str, Any] = {
    "dc_block": config.BlockSplit(
        dataset="d", generator="dc_block", drug_fraction=0.4, line_fraction=0.3
    ),
    "pair_random": config.PairRandom(dataset="d", generator="pair_random", seed=1),
    "context_fewshot": config.ContextFewshot(dataset="d", generator="context_fewshot"),
    "drug_out": config.DrugOut(dataset="d", generator="drug_out"),
    "perturbation_folds": config.PerturbationFolds(
        dataset="d", generator="perturbation_folds", k=4
    ),
    "plate_out": config.PlateOut(dataset="d", generator="plate_out", plates=["p0"]),
}


def source(labels: list[str], control: str = "ctrl", n_plates: int = 1) -> Any:
    rows = [
        (line, label, 50, f"p{i % n_plates}" if label != control else "p0")
        for line in ("L1", "L2", "L3", "L4")
        for i, label in enumerate([*labels, control])
    ]
    table = pd.DataFrame(rows, columns=["line", "perturbation", "n_cells", "batch"])
    return source_from(table, [control], "t.csv", "auto")


@pytest.mark.parametrize("generator", SETTINGS)
@pytest.mark.parametrize("labels", [DOUBLES, DOSED], ids=["orders", "doses"])
@pytest.mark.parametrize("seed", range(3))
def test_all_spellings_of_a_perturbation_get_one_role(
    generator: str, labels: list[str], seed: int
) -> None:
    found = source(labels, n_plates=7)
    fold = 0 if generator == "perturbation_folds" else None
    settings = SETTINGS[generator].model_copy(update={"seed": seed})
    known = Known(reading=found.reading)
    table = generate(found.conditions, settings, fold, known)
    assert set(table["perturbation"]) == set(labels)
    meant = table["perturbation"].map(found.reading.canonical)
    assert meant.nunique() < len(labels)
    assert (table.groupby([table["line"], meant])["role"].nunique() == 1).all()
    assert {"train", "test"} <= set(table["role"])


@pytest.mark.parametrize("generator", ["dose_interpolate", "dose_extrapolate"])
def test_doses_in_two_units_are_one_dose(generator: str) -> None:
    found = source(DOSED)
    settings = config.DoseSplit(dataset="d", generator=generator, drug_fraction=0.5)
    table = generate(found.conditions, settings, None, Known(reading=found.reading))
    held = {found.reading.canonical(p) for p in table.loc[table["role"] == "test", "perturbation"]}
    assert {name.rpartition("_")[2] for name in held} == {
        "5" if generator == "dose_interpolate" else "50"
    }
    tests = table[table["role"] == "test"]
    assert len(tests) == 4 * len(held) * (2 if generator == "dose_interpolate" else 1)


def test_one_spelling_of_each_draws_as_before() -> None:
    """Names are drawn as they stand: another sort order would be another split."""
    labels = ["SET+CEBPE", "CEBPE+RUNX1T1", "Erdafitinib ", "Zeta", "A", "ctrl+MYC"]
    grid = Grid.from_conditions(source(labels).conditions, Reading("plain", ("ctrl",)))
    assert grid.names("drug") == sorted(labels)
    assert grid.compounds == {}


def test_a_drug_is_named_in_whatever_spelling() -> None:
    labels = ["Café", "KLF1+MYC", "CEBPA+ctrl", "SPI1"]
    grid = Grid.from_conditions(source(labels).conditions, Reading("plain", ("ctrl",)))
    given = [unicodedata.normalize("NFD", "Café "), "MYC + KLF1", "CEBPA"]
    assert grid.check(given, "drug", "drugs") == ["Café", "KLF1+MYC", "CEBPA+ctrl"]
    with pytest.raises(SplitError, match="no drug 'SPY1' in the data") as caught:
        grid.check(["SPY1"], "drug", "drugs")
    assert "did you mean 'SPI1'?" in str(caught.value)
    with pytest.raises(SplitError, match="once"):
        grid.check(["KLF1+MYC", "MYC+KLF1"], "drug", "drugs")


def test_a_drug_table_in_another_spelling() -> None:
    grid = Grid.from_conditions(
        source(["MYC+KLF1", "Café"]).conditions, Reading("plain", ("ctrl",))
    )
    facts = {
        "listed": ["KLF1+MYC", unicodedata.normalize("NFD", "Café")],
        "groups": {"KLF1+MYC": "double"},
    }
    log = Findings()
    assert known_from(facts, grid, log).groups == {"MYC+KLF1": "double"}
    assert [item.code for item in log.items] == ["names-stripped"]


TOML = '[datasets]\nd = "x"\n[training]\nd = "train"\n[fewshot."d.L1"]\ntest = {}\n'


def lint(
    home: Path, labels: list[str], test: list[str], capsys: Any, monkeypatch: Any, *more: str
) -> tuple[int, str]:
    table = pd.DataFrame(
        [(line, label, 50) for line in ("L1", "L2") for label in [*labels, "ctrl"]],
        columns=["line", "perturbation", "n_cells"],
    )
    table.to_csv(home / "t.csv", index=False)
    (home / "s.toml").write_text(TOML.format(json.dumps(test)), encoding="utf-8")
    arguments = [str(home / "s.toml"), "--data", str(home / "t.csv"), "--control-pert", "ctrl"]
    monkeypatch.setattr(sys, "argv", ["statetx", "lint", *arguments, *more])
    with pytest.raises(SystemExit) as done:
        cli.main()
    out, _ = capsys.readouterr()
    return int(done.value.code or 0), out


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("KLF1+ctrl", "ctrl+KLF1"),
        ("KLF1", "KLF1+ctrl"),
        ("A+B", "B+A"),
        ("Caf\u00e9", "Cafe\u0301"),
        ("Drug_0.5", "[('Drug', np.float64(0.5), 'uM')]"),
        ("Drug_0.5uM", "Drug_500nM"),
        ("Drug", "Drug "),
        ("My  Drug", "My Drug"),
    ],
)
def test_two_spellings_in_two_roles_are_refused(
    one: str, other: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    labels = [one, other, "X_0.1", "X_1", "Y_0.1", "Y_1"]
    code, out = lint(tmp_path, labels, [other], capsys, monkeypatch)
    assert code == 1
    (error,) = [text for text in out.splitlines() if text.startswith("error (two-roles)")]
    for text in (repr(one), repr(other), "in test", "in train", "line 'L1'"):
        assert text in error
    code, out = lint(tmp_path, labels, [one, other], capsys, monkeypatch)
    assert code == 0
    assert "warning (two-spellings)" in out


def test_ids_are_not_spellings(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    labels = ["cmpd_01", "cmpd_1", *(f"cmpd_{i:02d}" for i in range(2, 9))]
    code, out = lint(tmp_path, labels, ["cmpd_01"], capsys, monkeypatch)
    assert code == 0
    assert "9 drugs, 0 doses: labels are read as plain names" in out
    code, out = lint(tmp_path, labels, ["cmpd_01"], capsys, monkeypatch, "--labels", "drug_dose")
    assert code == 1
    assert "warning (few-drugs): 9 labels are only 1 drug" in out


def test_a_setting_that_is_none(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    code, _ = lint(tmp_path, ["A"], ["A"], capsys, monkeypatch, "--labels", "plan")
    assert code == 2


def test_a_store_that_reads_labels_plain(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    found = source(["cmpd_001", "cmpd_002", "cmpd_003"])
    conditions = replace(found).conditions.assign(row_start=0)
    home = store_of(conditions, tmp_path / "pack")
    manifest = json.loads((home / "manifest.json").read_text())
    said = {"control_pert": "ctrl", "control_aliases": [], "labels": "plain"}
    (home / "manifest.json").write_text(json.dumps(manifest | said))
    (tmp_path / "s.toml").write_text(TOML.format('["cmpd_001"]'), encoding="utf-8")
    arguments = [str(tmp_path / "s.toml"), "--data", str(home)]
    monkeypatch.setattr(sys, "argv", ["statetx", "lint", *arguments])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code
    assert "3 drugs, 0 doses" in capsys.readouterr().out
