"""Files that spell their labels differently are matched; what one file spells twice is pooled."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from statetx.core.errors import DataError
from statetx.evaluation.standalone.ceiling import ceiling_files
from statetx.evaluation.standalone.evaluate_files import evaluate_files

GENES = [f"g{i}" for i in range(12)]


def cells(labels: list[str], seed: int, line: str = "L") -> ad.AnnData:
    """12 cells of every label, each label with an effect of its own, whatever its name."""
    rng = np.random.default_rng(seed)
    shift = np.random.default_rng(0).normal(0, 1, (len(labels), len(GENES)))
    x = np.concatenate([np.abs(rng.normal(2 + row, 0.3, (12, len(GENES)))) for row in shift])
    obs = pd.DataFrame({"drug": np.repeat(labels, 12), "line": line})
    obs.index = [f"c{i}" for i in range(len(obs))]
    return ad.AnnData(x.astype(np.float32), obs, pd.DataFrame(index=GENES))


def scored(home: Path, real: list[str], pred: list[str], **options: Any) -> pd.DataFrame:
    home.mkdir(exist_ok=True)
    cells(real, 1).write_h5ad(home / "real.h5ad")
    cells(pred, 2).write_h5ad(home / "pred.h5ad")
    files = home / "pred.h5ad", home / "real.h5ad"
    evaluate_files(*files, "drug", "ctrl", out=home / "out", **options)
    return pd.read_csv(home / "out/scores.csv", keep_default_na=False)


REAL = ["ctrl", "Caf\u00e9", "A+B", "KLF1", "Drug_0.5", "Drug_5", "Tuple_0.5", "Tuple_5", "Blank x"]
PRED = [
    "ctrl+ctrl", unicodedata.normalize("NFD", "Caf\u00e9"), "B+A", "ctrl+KLF1", "Drug_5e-1", "Drug_5.0uM",
    "[('Tuple', np.float64(0.5), 'uM')]", "[('Tuple', 5000, 'nM')]", " Blank  x ",
]  # fmt: skip


def test_other_spellings_give_the_same_tables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = scored(tmp_path / "a", REAL, REAL)
    with caplog.at_level(logging.INFO):
        other = scored(tmp_path / "b", REAL, PRED)
    pd.testing.assert_frame_equal(other.drop(columns="note"), same.drop(columns="note"))
    assert sorted(other["perturbation"]) == sorted(REAL[1:])
    for name in ("results.csv", "agg_results.csv"):
        assert (tmp_path / "b/out" / name).read_text() == (tmp_path / "a/out" / name).read_text()
    said = [text for text in caplog.messages if "have a different spelling" in text]
    assert len(said) == 1
    assert f"{len(REAL)} labels" in said[0]


def test_names_that_look_the_same_are_told_with_escapes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        scored(tmp_path, ["ctrl", "Caf\u00e9", "B"], ["ctrl", "Cafe\u0301", "B"])
    assert r"'Cafe\u0301' is 'Caf\xe9'" in caplog.text


def test_spellings_in_one_file_are_pooled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = scored(tmp_path, ["ctrl", "B+A", "A+B", "C"], ["ctrl", "A+B", "C"])
    assert table["perturbation"].tolist() == ["A+B", "C"]
    assert table["n_cells"].tolist() == [24, 12]
    assert "pooled: 'A+B' = 'B+A'" in caplog.text


def test_lines_are_matched_too(tmp_path: Path) -> None:
    real = ad.concat([cells(["ctrl", "A", "B"], 1, line) for line in (" K562", "K562", "MCF7")])
    pred = ad.concat([cells(["ctrl", "A", "B"], 2, line) for line in ("K562 ", "MCF7")])
    for name, side in (("real", real), ("pred", pred)):
        side.obs_names_make_unique()
        side.write_h5ad(tmp_path / f"{name}.h5ad")
    files = tmp_path / "pred.h5ad", tmp_path / "real.h5ad"
    found = evaluate_files(*files, "drug", "ctrl", "line", out=tmp_path / "out")
    assert sorted(found) == ["K562", "MCF7"]


def test_an_unknown_label_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match="the prediction does not contain 1 of 2 perturbations of cell line 'all': 'Café'",
    ) as caught:
        scored(tmp_path, ["ctrl", "Caf\u00e9", "B"], ["ctrl", "Cafe", "B"])
    assert "did you mean" in str(caught.value)


def test_guides_have_no_dose_response(tmp_path: Path) -> None:
    labels = ["ctrl", *(f"{gene}_{i}" for gene in ("TP53", "KLF1") for i in (1, 2, 3))]
    table = scored(tmp_path / "auto", labels, labels)
    assert table["drug"].tolist() == table["perturbation"].tolist() == sorted(labels[1:])
    assert set(table["dose"]) == set(table["dose_rho"]) == set(table["dose_response"]) == {""}
    table = scored(tmp_path / "dosed", labels, labels, labels="drug_dose")
    assert sorted(set(table["drug"])) == ["KLF1", "TP53"]
    assert set(table["dose"].astype(float)) == {1, 2, 3}


def test_doses_in_two_units_are_in_one_order(tmp_path: Path) -> None:
    labels = ["ctrl", "Drug_100nM", "Drug_0.5uM", "Drug_5"]
    table = scored(tmp_path, labels, labels).set_index("perturbation")
    assert table["dose"].astype(float).to_dict() == {
        "Drug_100nM": 0.1, "Drug_0.5uM": 0.5, "Drug_5": 5.0
    }  # fmt: skip


def test_supplied_tests_in_another_spelling(tmp_path: Path) -> None:
    scored(tmp_path, ["ctrl", "A+B", "C"], ["ctrl", "A+B", "C"])
    table = pd.read_parquet(tmp_path / "out/real_de.parquet")
    table["target"] = table["target"].astype(str).replace("A+B", "B+A")
    table.to_csv(tmp_path / "de.csv", index=False)
    before = (tmp_path / "out/results.csv").read_text()
    scored(tmp_path, ["ctrl", "A+B", "C"], ["ctrl", "A+B", "C"], real_de=tmp_path / "de.csv")
    assert (tmp_path / "out/results.csv").read_text() == before


def test_halves_pool_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells(["ctrl", "B+A", "A+B", "C"], 1).write_h5ad(tmp_path / "real.h5ad")
    found = ceiling_files(tmp_path / "real.h5ad", "drug", "ctrl", out=tmp_path / "out")
    assert found["all"].labels == ["A+B", "C"]
    assert "pooled" in caplog.text
