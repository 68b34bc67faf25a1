"""What labels say: counted a second time with pandas, from cells."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from statetx.config import Dataset
from statetx.core.errors import ConfigError
from statetx.data.h5ad.header import header
from statetx.data.inspection.design import (
    Columns,
    Design,
    candidates,
    declared,
    looks_like_control,
    tally,
)


@pytest.fixture(scope="module")
def cells(tiny_source: Path) -> pd.DataFrame:
    files = sorted(tiny_source.glob("L*.h5ad"))
    return pd.concat([anndata.read_h5ad(path).obs for path in files]).astype(str)


@pytest.fixture(scope="module")
def design(tiny_source: Path, tiny_settings: Dataset) -> Design:
    files = sorted(tiny_source.glob("L*.h5ad"))
    return Design([tally(header(path, tiny_settings)) for path in files], ["DMSO_TF_00"])


def test_table_counts_every_cell_once(
    cells: pd.DataFrame, design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = cells.groupby(["cell_line", "drug_dose", "batch"]).size()
    ours = design.table.set_index(["line", "perturbation", "batch"])["cells"]
    assert ours.to_dict() == counted.to_dict()


def test_counting_in_pieces_changes_nothing(
    tiny_source: Path, tiny_settings: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = header(tiny_source / "L01.h5ad", tiny_settings)
    whole = tally(head)
    monkeypatch.setattr("statetx.data.inspection.design._PIECE", 7)
    pd.testing.assert_frame_equal(tally(head), whole)


def test_lines_conditions_and_matching(cells: pd.DataFrame, design: Design) -> None:
    control = cells["drug_dose"] == "DMSO_TF_00"
    lines = design.lines()
    assert lines["cells"].to_dict() == cells.groupby("cell_line").size().to_dict()
    assert lines["controls"].to_dict() == cells[control].groupby("cell_line").size().to_dict()
    assert (lines["perturbations"] == 12).all()
    conditions = design.conditions()
    sizes = cells[~control].groupby(["cell_line", "drug_dose"]).size()
    assert conditions["cells"].tolist() == sorted(sizes)
    assert sizes[conditions["line"][0], conditions["perturbation"][0]] == sizes.min()
    matching = design.matching().set_index(["line", "batch"])
    assert (
        matching["treated"].to_dict()
        == cells[~control].groupby(["cell_line", "batch"]).size().to_dict()
    )
    assert (
        matching["controls"].to_dict()
        == cells[control].groupby(["cell_line", "batch"]).size().to_dict()
    )


def test_batches_without_controls_come_first_and_those_without_treatment_not_at_all() -> None:
    columns = ["line", "perturbation", "batch", "cells"]
    one = pd.DataFrame(
        [("A", "drug", "1", 5), ("A", "ctrl", "2", 9), ("A", "drug", "3", 4)], columns=columns
    )
    two = pd.DataFrame([("A", "ctrl", "3", 2), ("A", "drug", "1", 1)], columns=columns)
    found = Design([one, two], ["ctrl"]).matching()
    assert found.to_numpy().tolist() == [["A", "1", 6, 0], ["A", "3", 4, 2]]


@pytest.mark.parametrize("label", [
    "DMSO_TF_00", "[('DMSO_TF', 0.0, 'uM')]", "control", "Ctrl", "non-targeting", "NegCtrl3",
    "Vehicle", "NT", "nt_2", "no drug", "safe_targeting", "untreated_24h",
])  # fmt: skip
def test_labels_that_read_like_controls(label: str) -> None:
    assert looks_like_control(label)


@pytest.mark.parametrize("label", [
    "CEBPA+ctrl", "NTRK1", "Contraceptin", "Drug_0.5", "PBSX", "mTOR inhibitor", "NT5E", "Vehiclex",
])  # fmt: skip
def test_labels_that_do_not(label: str) -> None:
    assert not looks_like_control(label)


def test_candidates() -> None:
    found = candidates({
        "drug_dose": ["Drug_1", "DMSO_TF_00", "Drug_2"],
        "cell_type": ["B", "T"],
        "orig.ident": ["x"],
        "sample": ["DMSO_1", "Drug"],
        "gem_group": ["0", "1"],
        "cell_line_id": ["a"],
        "n_counts": ["3", "5"],
    })  # fmt: skip
    told = [(one.option, one.column, one.controls) for one in found]
    assert told[:2] == [
        ("pert_col", "drug_dose", ("DMSO_TF_00",)),
        ("pert_col", "sample", ("DMSO_1",)),
    ]
    assert {(option, column) for option, column, _ in told[2:]} == {
        ("cell_type_key", "cell_type"),
        ("cell_type_key", "cell_line_id"),
        ("batch_col", "sample"),
        ("batch_col", "gem_group"),
    }


def test_columns_become_a_data_set_when_they_say_enough(tmp_path: Path) -> None:
    some = Columns("drug", "line", None, ("DMSO",))
    assert declared(None, None, some) is some
    made = declared(None, None, Columns("drug", "line", None, ("DMSO", "dmso"), "counts"))
    assert isinstance(made, Dataset)
    assert (made.pert_col, made.batch_col, made.control_pert) == ("drug", None, ["DMSO", "dmso"])
    with pytest.raises(ConfigError, match="no data set 'dem'") as caught:
        declared(Path("config/config.yaml"), "dem", Columns())
    assert "did you mean 'demo'?" in str(caught.value)
    assert declared(Path("config/config.yaml"), None, Columns()).control_pert


def test_many_labels_do_not_overflow() -> None:
    from statetx.data.h5ad.header import Column, Header

    n = 70_000
    codes = np.arange(n, dtype=np.int32)
    names = [f"{i:05d}" for i in range(n)]
    column = Column(codes, names)
    found = tally(Header(Path("a"), n, [], column, column, column))
    assert len(found) == n, "70,000 cubed is beyond 32 bits"
    assert (found["line"] == found["batch"]).all()
