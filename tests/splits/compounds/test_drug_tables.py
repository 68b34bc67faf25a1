"""What tables, obs columns and structures say of drugs and lines, and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from conditions import CONTROL, conditions_of

from statetx.config import BlockSplit, TomlSplit
from statetx.config.splits import DrugTable, GroupOut, LineOut, LineTable
from statetx.core.errors import ConfigError, DataError, SplitError
from statetx.splits.compounds import structures
from statetx.splits.compounds.drug_tables import facts_of, known_from, obs_column
from statetx.splits.compounds.structures import scaffold, structure_key
from statetx.splits.findings import Findings
from statetx.splits.grid import Grid, Known
from statetx.splits.plan_table import plan_table

IBUPROFEN = "CC(C)Cc1ccc(cc1)C(C)C(=O)O"
METFORMIN = "CN(C)C(=N)NC(=N)N"
NAPROXEN = "COc1ccc2cc(ccc2c1)[C@H](C)C(=O)O"
FORMS = ["csv", "tsv", "txt", "parquet"]
MOA = pd.DataFrame(
    {"drug": ["Alpha", "Beta ", "γ-Oryzanol", "A,B"], "moa": ["COX", "COX", None, "mTOR"]}
)


def written(table: pd.DataFrame, path: Path) -> str:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, sep="," if path.suffix == ".csv" else "\t", index=False)
    return str(path)


def of_drugs(path: str, **keys: Any) -> dict[str, Any]:
    return facts_of(TomlSplit(dataset="d", toml="x", drug_table=DrugTable(path=path, **keys)))


def by_group(path: str, group: str = "moa", **keys: Any) -> dict[str, Any]:
    table = DrugTable(path=path, **keys)
    return facts_of(GroupOut(dataset="d", generator="moa_out", drug_table=table, group=group))


def told(facts: dict[str, Any], drugs: list[str], log: Findings | None = None) -> Known:
    grid = Grid.from_conditions(conditions_of(["L0", "L1"], drugs))
    return known_from(facts, grid, Findings() if log is None else log)


# ---------------------------------------------------------------------------------------------
# tables of drugs


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_read_in_every_form(form: str, tmp_path: Path) -> None:
    facts = by_group(written(MOA, tmp_path / f"drugs.{form}"))
    assert facts["groups"] == {"Alpha": "COX", "Beta ": "COX", "A,B": "mTOR"}
    assert facts["listed"] == sorted(MOA["drug"])
    assert json.loads(json.dumps(facts)) == facts  # parameters of a stage are JSON


@pytest.mark.parametrize("form", FORMS)
def test_names_that_look_like_numbers_stay_text(form: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"drug": ["007", "1.50", "5e3"], "moa": ["01", "2.0", "3"]})
    facts = by_group(written(table, tmp_path / f"drugs.{form}"))
    assert facts["groups"] == {"007": "01", "1.50": "2.0", "5e3": "3"}


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_file_is_named(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"nowhere.{form}"
    with pytest.raises(ConfigError) as caught:
        of_drugs(str(path))
    assert caught.value.where == str(path)
    assert caught.value.fix == "correct drug_table.path"


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_no_table_is_refused(form: str, tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe\x00\x81", b'drug,moa\n"a'):
        path = tmp_path / f"drugs.{form}"
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            of_drugs(str(path))
        assert caught.value.where == str(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_column_is_named_with_the_nearest_one(form: str, tmp_path: Path) -> None:
    path = written(MOA.rename(columns={"drug": "drug_name"}), tmp_path / f"drugs.{form}")
    with pytest.raises(ConfigError, match="no column 'drug'") as caught:
        of_drugs(path)
    assert caught.value.fix == "drug_table.name: did you mean 'drug_name'?"
    with pytest.raises(ConfigError, match="no column 'smile'"):
        of_drugs(path, name="drug_name", smiles="smile")
    with pytest.raises(ConfigError, match="no column 'mao'") as caught:
        by_group(path, "mao", name="drug_name")
    assert "did you mean 'moa'?" in str(caught.value.fix)


@pytest.mark.parametrize("form", FORMS)
def test_a_drug_stands_in_one_row(form: str, tmp_path: Path) -> None:
    table = pd.concat([MOA, MOA.tail(1)])
    with pytest.raises(ConfigError, match=r"1 names .* such as 'A,B'"):
        of_drugs(written(table, tmp_path / f"drugs.{form}"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("empty", [None, "", " "])
def test_a_row_without_a_name_is_named(empty: str | None, form: str, tmp_path: Path) -> None:
    table = MOA.assign(drug=["Alpha", empty, "γ-Oryzanol", "A,B"])
    with pytest.raises(ConfigError, match="row 2 has no name"):
        of_drugs(written(table, tmp_path / f"drugs.{form}"))


def test_a_drug_may_be_called_like_a_missing_value(tmp_path: Path) -> None:
    table = pd.DataFrame({"drug": ["NA", "None", "nan", "null"], "moa": ["a", "b", "c", "d"]})
    facts = by_group(written(table, tmp_path / "drugs.csv"))
    assert facts["listed"] == ["NA", "None", "nan", "null"]


def test_drugs_of_the_data_that_are_not_in_the_table_are_named(tmp_path: Path) -> None:
    facts = of_drugs(written(MOA, tmp_path / "drugs.csv"))
    with pytest.raises(SplitError, match=r"2 of 3 drugs .*: 'Alhpa', 'Delta'") as caught:
        told(facts, ["Alpha", "Alhpa", "Delta"])
    assert caught.value.where == "drug_table"
    assert "did you mean 'Alpha'?" in str(caught.value.fix)


def test_drugs_of_the_table_that_are_not_in_the_data_are_no_matter(tmp_path: Path) -> None:
    log = Findings()
    known = told(by_group(written(MOA, tmp_path / "drugs.csv")), ["Alpha"], log)
    assert known.groups == {"Alpha": "COX"}
    assert log.items == []


def test_names_match_without_the_blanks_around_them_and_this_is_said(tmp_path: Path) -> None:
    log = Findings()
    facts = by_group(written(MOA, tmp_path / "drugs.csv"))
    known = told(facts, ["Alpha ", "Beta", "γ-Oryzanol"], log)
    assert known.groups == {"Alpha ": "COX", "Beta": "COX"}
    (note,) = log.items
    assert (note.severity, note.code, note.where) == ("note", "names-stripped", "drug_table")
    assert "'Alpha ', 'Beta'" in note.what


def test_a_name_as_it_stands_comes_before_one_without_blanks() -> None:
    log = Findings()
    facts = {"listed": ["A", "A "], "groups": {"A": "x", "A ": "y"}}
    assert told(facts, ["A", "A "], log).groups == {"A": "x", "A ": "y"}
    assert log.items == []


# ---------------------------------------------------------------------------------------------
# strata


def stratified(**keys: Any) -> BlockSplit:
    return BlockSplit(dataset="d", generator="dc_block", **keys)


def of_lines(path: str, column: str = "tissue") -> dict[str, Any]:
    table = LineTable(path=path)
    return facts_of(
        LineOut(dataset="d", generator="line_out", line_table=table, stratify={"lines": column})
    )


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_a_line_must_agree_in_the_column_that_is_read(form: str, tmp_path: Path) -> None:
    rows = [("L0", "lung", "a"), ("L0", "lung", "b"), ("L1", "skin", "a"), ("L1", "skin", "c")]
    table = pd.DataFrame(rows, columns=["cell_line", "tissue", "gene"])
    path = written(table, tmp_path / f"lines.{form}")
    assert of_lines(path)["strata"] == {"lines": {"L0": "lung", "L1": "skin"}}
    with pytest.raises(ConfigError, match=r"'L0' disagree: \['a', 'b'\]") as caught:
        of_lines(path, "gene")
    assert caught.value.where == f"{path}: gene"
    with pytest.raises(ConfigError, match="no column 'tisue'"):
        of_lines(path, "tisue")


def test_a_missing_line_table_and_a_line_without_stratum_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        of_lines(str(tmp_path / "nowhere.csv"))
    assert caught.value.fix == "correct line_table.path"
    table = pd.DataFrame({"cell_line": ["L0", "L1"], "tissue": ["lung", None]})
    facts = of_lines(written(table, tmp_path / "lines.csv"))
    with pytest.raises(SplitError, match=r"1 of 2 lines .*: 'L1'") as caught:
        told(facts, ["Alpha"])
    assert caught.value.where == "stratify.lines"


def test_strata_of_drugs_come_from_the_table_and_reach_the_draw(tmp_path: Path) -> None:
    drugs = [f"Drug{i}" for i in range(10)]
    table = pd.DataFrame({"drug": drugs, "moa": ["x"] * 5 + ["y"] * 5})
    where = DrugTable(path=written(table, tmp_path / "drugs.csv"))
    chosen = stratified(drug_table=where, stratify={"drugs": "moa"}, drug_fraction=0.4)
    facts = facts_of(chosen)
    assert facts["strata"] == {"drugs": dict(zip(drugs, table["moa"], strict=True))}
    conditions = conditions_of([f"L{i}" for i in range(5)], drugs)
    plan, _ = plan_table(conditions, [CONTROL], chosen, None, None, facts, Findings())
    tested = plan.loc[plan["role"] == "test", "perturbation"].str.split("_").str[0].unique()
    assert sorted(table.set_index("drug").loc[tested, "moa"]) == ["x", "x", "y", "y"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two h5ads of two lines, each with its tissue; drugs with their class, plates without one."""
    home = tmp_path_factory.mktemp("cells")
    paths = []
    for line, tissue in (("L0", "lung"), ("L1", "skin")):
        rows = [
            (line, label, tissue, kind, f"plate{i % 2}")
            for label, kind in (
                ("Alpha_0.5", "kinase"), ("Alpha_5", "kinase"), ("Beta _5", "HDAC"), (CONTROL, "none")
            )
            for i in range(3)
        ]  # fmt: skip
        obs = pd.DataFrame(rows, columns=["cell_line", "drug_dose", "tissue", "kind", "plate"])
        obs.index = obs.index.astype(str)
        obs["kind"] = obs["kind"].astype("category")
        paths.append(home / f"{line}.h5ad")
        anndata.AnnData(np.zeros((len(obs), 2), dtype=np.float32), obs=obs).write_h5ad(paths[-1])
    return paths


def test_strata_come_from_obs_where_no_table_has_them(cells: list[Path], tmp_path: Path) -> None:
    both = stratified(stratify={"drugs": "kind", "lines": "tissue"})
    facts = facts_of(both, cells, "drug_dose", "cell_line", [CONTROL])
    assert facts["strata"]["lines"] == {"L0": "lung", "L1": "skin"}
    known = told(facts, ["Alpha", "Beta "])
    assert known.strata["drugs"] == {"Alpha": "kinase", "Beta ": "HDAC"}
    table = DrugTable(path=written(MOA, tmp_path / "drugs.csv"))
    beside = stratified(drug_table=table, stratify={"drugs": "kind"})
    assert (
        facts_of(beside, cells, "drug_dose", "cell_line", [CONTROL])["strata"]["drugs"]["Alpha"]
        == "kinase"
    )


def test_cells_that_disagree_are_named(cells: list[Path]) -> None:
    with pytest.raises(ConfigError, match="'Alpha' disagree: 'plate0' and 'plate1'") as caught:
        obs_column(cells[:1], "drug_dose", "plate", [CONTROL])
    assert caught.value.where == f"{cells[0]}: obs['plate']"
    with pytest.raises(ConfigError, match="'L0' disagree"):
        obs_column(cells, "cell_line", "plate", None)
    with pytest.raises(ConfigError, match="'Alpha' disagree: 'lung' and 'skin'") as caught:
        obs_column(cells, "drug_dose", "tissue", [CONTROL])
    assert caught.value.where == f"{cells[1]}: obs['tissue']"


def test_controls_need_no_stratum(tmp_path: Path) -> None:
    rows = [("L0", "Alpha_5", "kinase"), ("L0", "Beta_5", "HDAC"), ("L0", CONTROL, None)]
    obs = pd.DataFrame(rows, columns=["cell_line", "drug_dose", "kind"], index=["a", "b", "c"])
    path = tmp_path / "cells.h5ad"
    anndata.AnnData(np.zeros((3, 2), dtype=np.float32), obs=obs).write_h5ad(path)
    chosen = stratified(stratify={"drugs": "kind"})
    known = told(facts_of(chosen, [path], "drug_dose", "cell_line", [CONTROL]), ["Alpha", "Beta"])
    assert known.strata["drugs"] == {"Alpha": "kinase", "Beta": "HDAC"}


def test_a_missing_obs_column_and_missing_files_are_named(cells: list[Path]) -> None:
    chosen = stratified(stratify={"drugs": "kinds"})
    with pytest.raises(DataError, match="no column 'kinds'") as caught:
        facts_of(chosen, cells, "drug_dose", "cell_line")
    assert "did you mean 'kind'?" in str(caught.value.fix)
    with pytest.raises(ConfigError, match="no table has a column 'kinds'"):
        facts_of(chosen)


# ---------------------------------------------------------------------------------------------
# structures

SAME = {
    "salt": [IBUPROFEN, "CC(C)Cc1ccc(cc1)C(C)C(=O)[O-].[Na+]", "[K+].[O-]C(=O)C(C)c1ccc(cc1)CC(C)C"],
    "hydrochloride": [METFORMIN, METFORMIN + ".Cl", "C[NH+](C)C(=N)NC(=N)N.[Cl-]", METFORMIN + ".O.Cl"],
    "spelling": [IBUPROFEN, f" {IBUPROFEN} ", "OC(=O)C(C)c1ccc(CC(C)C)cc1"],
    "stereochemistry": [NAPROXEN, NAPROXEN.replace("@H", "H"), NAPROXEN.replace("@", "@@")],
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_one_compound_has_one_key(name: str) -> None:
    assert len({structure_key(smiles, name) for smiles in SAME[name]}) == 1


def test_other_compounds_have_other_keys() -> None:
    given = [IBUPROFEN, METFORMIN, NAPROXEN, IBUPROFEN + "C"]
    assert len({structure_key(smiles, "x") for smiles in given}) == 4


def test_structures_of_a_table_are_keys_and_rows_without_one_have_none(tmp_path: Path) -> None:
    smiles = [IBUPROFEN, SAME["salt"][1], None, METFORMIN]
    table = MOA.assign(smiles=smiles)
    found = of_drugs(written(table, tmp_path / "drugs.csv"), smiles="smiles")["structures"]
    assert set(found) == {"Alpha", "Beta ", "A,B"}
    assert found["Alpha"] == found["Beta "] != found["A,B"]
    known = told({"structures": found}, ["Alpha", "Beta"])
    assert known.structures == {"Alpha": found["Alpha"], "Beta": found["Alpha"]}


@pytest.mark.parametrize("work", [structure_key, scaffold])
def test_a_structure_that_cannot_be_read_is_named(work: Any) -> None:
    for smiles in ("c1ccc", "C(C)(C)(C)(C)C", "not a structure"):
        with pytest.raises(ConfigError, match=r"structure of 'Alpha'") as caught:
            work(smiles, "Alpha")
        assert repr(smiles) in str(caught.value)
        assert "leave it empty" in str(caught.value.fix)


def test_a_scaffold_is_the_ring_system_of_the_largest_part() -> None:
    assert scaffold(IBUPROFEN, "x") == scaffold(SAME["salt"][1], "x") == "c1ccccc1"
    assert scaffold(NAPROXEN, "x") == "c1ccc2ccccc2c1"
    assert scaffold(METFORMIN, "x") == scaffold(METFORMIN + ".Cl", "x")
    assert scaffold(METFORMIN, "x") != scaffold("CCO", "x")


def by_scaffold(path: str) -> dict[str, Any]:
    table = DrugTable(path=path, smiles="smiles")
    return facts_of(GroupOut(dataset="d", generator="scaffold_out", drug_table=table))


def test_groups_are_scaffolds_where_the_generator_asks_for_them(tmp_path: Path) -> None:
    table = MOA.assign(smiles=[IBUPROFEN, SAME["salt"][1], NAPROXEN, None])
    groups = by_scaffold(written(table, tmp_path / "drugs.csv"))["groups"]
    assert groups == {"Alpha": "c1ccccc1", "Beta ": "c1ccccc1", "γ-Oryzanol": "c1ccc2ccccc2c1"}


def test_without_rdkit_structures_are_compared_as_written_and_scaffolds_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structures, "available", lambda: False)
    assert structure_key(f" {IBUPROFEN}", "x") == IBUPROFEN
    assert structure_key("not a structure", "x") == "not a structure"
    path = written(
        MOA.assign(smiles=[IBUPROFEN, SAME["salt"][1], IBUPROFEN, None]), tmp_path / "d.csv"
    )
    found = of_drugs(path, smiles="smiles")["structures"]
    assert found["Alpha"] == found["γ-Oryzanol"] != found["Beta "]
    with pytest.raises(ConfigError, match="RDKit, which is not installed") as caught:
        by_scaffold(path)
    assert "statetx[chemistry]" in str(caught.value.fix)
    assert "moa_out" in str(caught.value.fix)
