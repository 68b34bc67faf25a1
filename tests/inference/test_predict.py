"""Predictions of a plan's test conditions: which cells, from which controls, or why none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from statetx.config import PerturbationFolds
from statetx.core.errors import ModelError, ResultsError, StatetxError
from statetx.data.store.line_store import LineStore
from statetx.data.store.plan import read_plan, write_plan
from statetx.data.store.store import open_store
from statetx.inference.infer import infer
from statetx.inference.predict import predict
from statetx.inference.write_predictions import Request, write_predictions
from statetx.models.model_dir import Predicted, load
from statetx.models.network.set_transformer import PertSets
from statetx.splits.generators.generate import generate


def run(model: Path, store: Path, plan: Path, out: Path, **keys: object) -> anndata.AnnData:
    asked = {"line": "L01", "checkpoint": "best", "max_cells": 1500, "seed": 0} | keys
    predict(model, store, plan, out=out, **asked)
    return anndata.read_h5ad(out)


def test_no_change_gives_the_matched_controls_themselves(
    model_dirs: dict[str, Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    found = run(model_dirs["no_change"], tiny_store, tiny_plan, tmp_path / "p.h5ad")
    store = open_store(tiny_store)
    cells = store.line("L01")
    labels = read_plan(tiny_plan).perturbations("test", "L01")
    assert len(labels) == 2
    sizes = found.obs["perturbation"].value_counts().to_dict()
    assert sizes == {label: len(cells.rows(label)) for label in labels}
    assert found.var_names.tolist() == store.genes
    assert found.X.dtype == np.float32

    row_of = {name: row for row, name in enumerate(cells.barcodes)}
    rows = np.array([row_of[name] for name in found.obs["control_barcode"]])
    controls = cells.rows(store.control)
    assert set(rows) <= set(controls)
    np.testing.assert_array_equal(found.X, cells.expression(rows))
    for label in labels:
        mine = (found.obs["perturbation"] == label).to_numpy()
        real_batches = cells.batches(cells.rows(label))
        assert sorted(found.obs.loc[mine, "batch"]) == sorted(real_batches)
        assert len(set(rows[mine])) == mine.sum()  # without replacement: 30 controls per plate
        # Matched: wherever the batch has controls, the control is of that batch.
        with_controls = np.isin(real_batches, cells.batches(controls))
        assert with_controls.any()
        np.testing.assert_array_equal(
            cells.batches(rows[mine])[with_controls], real_batches[with_controls]
        )
    said = json.loads(found.uns["statetx"])
    assert said["kind"] == "no_change"
    assert (said["scale"], said["target_sum"], said["seed"]) == ("log1p", 1e4, 0)
    assert said["plan"] == read_plan(tiny_plan).digest
    assert anndata.read_h5ad(tmp_path / "p.h5ad", backed="r").shape == found.shape


def test_equal_bytes_and_another_seed(
    model_dirs: dict[str, Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    asked = (model_dirs["perturbation_mean"], tiny_store, tiny_plan)
    first = run(*asked, tmp_path / "a.h5ad")
    run(*asked, tmp_path / "b.h5ad")
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()
    other = run(*asked, tmp_path / "c.h5ad", seed=1)
    assert (
        other.obs["control_barcode"].to_numpy() != first.obs["control_barcode"].to_numpy()
    ).any()


def test_a_condition_does_not_depend_on_the_others(
    model_dirs: dict[str, Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    model = model_dirs["pertsets"]
    both = run(model, tiny_store, tiny_plan, tmp_path / "both.h5ad")
    table = read_plan(tiny_plan).table
    label = read_plan(tiny_plan).perturbations("test", "L01")[1]
    alone = table.assign(
        role=np.where(
            (table["role"] == "test") & (table["perturbation"] != label), "train", table["role"]
        )
    )
    write_plan(alone, tmp_path / "plan.parquet")
    one = run(model, tiny_store, tmp_path / "plan.parquet", tmp_path / "one.h5ad")
    mine = both[both.obs["perturbation"] == label]
    assert 0 < one.n_obs < both.n_obs
    np.testing.assert_array_equal(one.X, mine.X)
    keys = ["set_id", "control_barcode", "batch"]
    assert one.obs[keys].astype(str).to_numpy().tolist() == (
        mine.obs[keys].astype(str).to_numpy().tolist()
    )


def test_cells_of_a_set_see_each_other_and_no_others(
    model_dirs: dict[str, Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    found = run(model_dirs["pertsets"], tiny_store, tiny_plan, tmp_path / "p.h5ad")
    model, cells = load(model_dirs["pertsets"]), open_store(tiny_store).line("L01")
    assert model.cell_set_len == 8
    row_of = {name: row for row, name in enumerate(cells.barcodes)}
    for label, block in found.obs.groupby("perturbation", observed=True):
        sizes = block.groupby("set_id").size().tolist()
        assert len(sizes) == -(-len(block) // 8), "as few sets as possible"
        assert max(sizes) <= 8
        assert max(sizes) - min(sizes) <= 1, "of nearly equal size"
        for _, one in block.groupby("set_id"):
            rows = np.array([row_of[name] for name in one["control_barcode"]])
            expected = model.predict(cells.expression(rows), "L01", str(label)).cells
            np.testing.assert_allclose(found[one.index].X, expected, rtol=1e-5, atol=1e-6)


def test_the_cap_is_the_one_of_the_real_cells(
    model_dirs: dict[str, Path],
    tiny_store: Path,
    tiny_plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The batches of the predicted cells are those of the real cells that evaluation will draw. In
    # the tiny store a condition is on one plate, so every cell gets a batch of its own here.
    monkeypatch.setattr(
        LineStore, "batches", lambda self, rows: np.array([f"row{r}" for r in rows])
    )
    asked = (model_dirs["no_change"], tiny_store, tiny_plan, tmp_path / "p.h5ad")
    found = run(*asked, max_cells=7, seed=3)
    cells = open_store(tiny_store).line("L01")
    blocks = dict(list(found.obs.groupby("perturbation", observed=True)))
    assert len(blocks) == 2
    for label, block in blocks.items():
        assert block["batch"].tolist() == [f"row{r}" for r in cells.rows(label, 7, 3)]
        assert len(block) == 7


@pytest.fixture(scope="module")
def unseen(
    tiny_store: Path, sections: dict, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], dict[str, Path]]:
    """Plan, test labels, and models fitted on it: none of the labels was trained."""
    from statetx.training.fit import fit

    home = tmp_path_factory.mktemp("unseen")
    folds = PerturbationFolds(dataset="tiny", generator="perturbation_folds", k=3, val=False)
    table = generate(open_store(tiny_store).conditions, folds, 0)
    write_plan(table, home / "plan.parquet")
    labels = read_plan(home / "plan.parquet").perturbations("test", "L01")
    # Training refuses such a plan too, so these models are trained without seeing the test rows.
    write_plan(table[table["role"] != "test"], home / "train.parquet")
    models = {}
    for kind in ("pertsets", "perturbation_mean"):
        models[kind] = home / kind / "model"
        fit(
            tiny_store,
            home / "train.parquet",
            sections[kind],
            seed=0,
            out=models[kind],
            state_dir=home / kind / "state",
            checkpoints_dir=home / kind / "checkpoints",
        )
    return home / "plan.parquet", labels, models


def test_a_model_refuses_labels_it_never_saw_and_names_all(
    unseen: tuple[Path, list[str], dict[str, Path]], tiny_store: Path, tmp_path: Path
) -> None:
    plan, labels, models = unseen
    assert len(labels) == 4
    with pytest.raises(ModelError) as caught:
        run(models["pertsets"], tiny_store, plan, tmp_path / "p.h5ad")
    for label in labels:
        assert repr(label) in caught.value.what
    assert "4 of 4" in caught.value.what
    assert "split" in str(caught.value.fix)
    assert list(tmp_path.iterdir()) == []


def test_a_baseline_falls_back_and_flags_it(
    unseen: tuple[Path, list[str], dict[str, Path]],
    model_dirs: dict[str, Path],
    tiny_store: Path,
    tiny_plan: Path,
    tmp_path: Path,
) -> None:
    plan, _, models = unseen
    assert (
        run(models["perturbation_mean"], tiny_store, plan, tmp_path / "a.h5ad")
        .obs["fallback"]
        .all()
    )
    seen = run(model_dirs["perturbation_mean"], tiny_store, tiny_plan, tmp_path / "b.h5ad")
    assert not seen.obs["fallback"].any()


def edited(store: Path, out: Path, **changes: object) -> Path:
    shutil.copytree(store, out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | changes))
    return out


def test_another_store_is_refused(
    model_dirs: dict[str, Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    genes = open_store(tiny_store).genes
    cases = {
        "ordered differently: number 0": {"expression_genes": [genes[1], genes[0], *genes[2:]]},
        "1 of the model's are missing": {"expression_genes": ["other", *genes[1:]]},
        "control label 'DMSO_TF_00'": {"control_pert": "vehicle"},
        "embed_key": {"expression_key": None},
    }
    for number, (message, change) in enumerate(cases.items()):
        store = edited(tiny_store, tmp_path / f"store{number}", **change)
        with pytest.raises(ModelError) as caught:
            run(model_dirs["no_change"], store, tiny_plan, tmp_path / "out" / "p.h5ad")
        assert message in caught.value.what
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        ("L1", "no cell line 'L1'", "did you mean 'L01'?"),
        ("L02", "no test conditions", "'L01'"),
    ],
)
def test_lines_that_cannot_be_predicted(
    model_dirs: dict[str, Path],
    tiny_store: Path,
    tiny_plan: Path,
    tmp_path: Path,
    line: str,
    what: str,
    fix: str,
) -> None:
    with pytest.raises(ResultsError) as caught:
        run(model_dirs["no_change"], tiny_store, tiny_plan, tmp_path / "p.h5ad", line=line)
    assert what in caught.value.what
    assert fix in str(caught.value.fix)


def test_a_plan_of_another_store(
    model_dirs: dict[str, Path], tiny_store: Path, tmp_path: Path
) -> None:
    row = {"line": "L01", "perturbation": "Drug99_5", "role": "test", "reason": ""}
    write_plan(pd.DataFrame([row]), tmp_path / "plan.parquet")
    with pytest.raises(ResultsError, match="'Drug99_5'"):
        run(model_dirs["no_change"], tiny_store, tmp_path / "plan.parquet", tmp_path / "p.h5ad")


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_used_where_there_is_one(
    model_dirs: dict[str, Path],
    tiny_store: Path,
    tiny_plan: Path,
    tiny_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool,
    device: str,
) -> None:
    class Arrived(Exception):
        pass

    def to(self: PertSets, device: str) -> None:
        raise Arrived(device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(PertSets, "to", to)
    model = model_dirs["pertsets"]
    with pytest.raises(Arrived, match=device):
        run(model, tiny_store, tiny_plan, tmp_path / "a.h5ad")
    with pytest.raises(Arrived, match=device):
        infer(model, tiny_source / "L01.h5ad", tmp_path / "b.h5ad")
    # Models without tensors have nothing to move.
    run(model_dirs["context_mean"], tiny_store, tiny_plan, tmp_path / "c.h5ad")


def test_an_unknown_checkpoint(
    model_dirs: dict[str, Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="last"):
        run(model_dirs["no_change"], tiny_store, tiny_plan, tmp_path / "p.h5ad", checkpoint="last")


class Source:
    def __init__(self, width: int) -> None:
        self.width = width

    def expression(self, rows: np.ndarray) -> np.ndarray:
        return np.ones((len(rows), self.width), dtype=np.float32)

    def names(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(str).astype(object)


@pytest.mark.parametrize("broken", ["nan", "short", "error"])
def test_a_failure_in_the_middle_leaves_the_earlier_file(
    model_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    out = tmp_path / "p.h5ad"
    out.write_text("an earlier result")
    model = load(model_dirs["no_change"])
    calls = []

    def fails(control: np.ndarray, line: str, perturbation: str) -> Predicted:
        calls.append(line)
        cells = control.copy()
        if len(calls) == 2:
            if broken == "error":
                raise ModelError("no")
            cells[0, 0] = np.nan
            cells = cells[:-1] if broken == "short" else cells
        return Predicted(cells, False)

    monkeypatch.setattr(model.predictor, "predict", fails)
    batches = np.full(3, "p", dtype=object)
    requests = [Request(line, "x", np.arange(3), batches) for line in ("A", "B", "C")]
    with pytest.raises(StatetxError):
        write_predictions(out, model, requests, lambda _: Source(len(model.genes)), {})
    assert len(calls) == 2
    assert out.read_text() == "an earlier result"
    assert list(tmp_path.iterdir()) == [out]
