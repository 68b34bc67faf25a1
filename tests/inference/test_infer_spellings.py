"""A label in another spelling of a trained one is found, and said once."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import anndata
import numpy as np
import pytest

from statetx.core.errors import DataError, ModelError
from statetx.inference.infer import infer
from statetx.models import model_dir

CONTROL = "DMSO_TF_00"


@pytest.fixture
def cells(tiny_source: Path) -> anndata.AnnData:
    return anndata.read_h5ad(tiny_source / "L03.h5ad")


def relabelled(cells: anndata.AnnData, names: dict[str, str], home: Path) -> Path:
    labels = cells.obs["drug_dose"].astype(str)
    cells.obs["drug_dose"] = labels.replace(names)
    cells.write_h5ad(home / "mine.h5ad")
    return home / "mine.h5ad"


@pytest.mark.parametrize("kind", ["pertsets", "perturbation_mean"])
def test_labels_of_a_file(
    kind: str,
    model_dirs: dict[str, Path],
    cells: anndata.AnnData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = model_dir.load(model_dirs[kind], "best", "cpu")
    basal = np.abs(np.random.default_rng(0).normal(1, 0.1, (8, loaded.meta["n_inputs"])))
    basal = basal.astype(np.float32)
    trained = next(label for label in loaded.perturbations if label != loaded.control)
    drug, _, dose = trained.rpartition("_")
    other = f"[('{drug}', np.float64({dose}), 'uM')]"
    assert (
        loaded.vocabulary.find(other)
        == loaded.vocabulary.find(f" {drug}_{float(dose)} uM")
        == trained
    )
    one, two = (loaded.predict(basal, "L03", label).cells for label in (trained, other))
    np.testing.assert_array_equal(one, two)
    source = relabelled(cells, {trained: other}, tmp_path)
    infer(model_dirs[kind], source, tmp_path / "out.h5ad", on_unknown="skip")
    found = anndata.read_h5ad(tmp_path / "out.h5ad").obs
    assert other in set(found["perturbation"])
    assert not found["fallback"].any()
    said = capsys.readouterr().out
    assert said.count("spelt differently than in the model") == 1
    assert repr(trained) in said


def test_a_table_asks_in_other_spellings(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    n = int((cells.obs["drug_dose"] == "Drug02_5").sum())
    source = relabelled(cells, {}, tmp_path)
    table = tmp_path / "t.csv"
    table.write_text("perturbation,cell_line\nDrug02_5.0,L03\n")
    assert infer(model_dirs["no_change"], source, tmp_path / "out.h5ad", table=table) == n
    found = anndata.read_h5ad(tmp_path / "out.h5ad").obs
    assert set(found["perturbation"]) == {"Drug02_5.0"}


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (["Drug02_5", "Drug02_5.0"], "is asked for twice, first as 'Drug02_5'"),
        (["DMSO_TF_0.0"], "'DMSO_TF_0.0' is not a perturbation to predict"),
    ],
)
def test_a_table_that_names_one_condition_twice_or_the_control(
    asked: list[str],
    what: str,
    model_dirs: dict[str, Path],
    cells: anndata.AnnData,
    tmp_path: Path,
) -> None:
    source, table = relabelled(cells, {}, tmp_path), tmp_path / "t.csv"
    rows = [f"{label},L03" for label in asked]
    table.write_text("\n".join(["perturbation,cell_line", *rows]) + "\n")
    with pytest.raises(DataError) as caught:
        infer(model_dirs["no_change"], source, tmp_path / "out.h5ad", table=table)
    assert what in str(caught.value)


def test_controls_in_another_spelling(
    model_dirs: dict[str, Path],
    cells: anndata.AnnData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    control = f"[('DMSO_TF', 0.0, '{unicodedata.normalize('NFD', 'uM')}')]"
    source = relabelled(cells, {CONTROL: control}, tmp_path)
    n = infer(model_dirs["no_change"], source, tmp_path / "out.h5ad")
    assert n == int((cells.obs["drug_dose"] != control).sum())
    assert capsys.readouterr().out.count("controls in another spelling") == 1


def test_an_unknown_label_is_an_error_with_a_hint(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    source = relabelled(cells, {"Drug02_5": "Drug2_5"}, tmp_path)
    with pytest.raises(ModelError, match="was not trained on 1 of") as caught:
        infer(model_dirs["no_change"], source, tmp_path / "out.h5ad")
    assert "did you mean 'Drug02_5'?" in str(caught.value)
