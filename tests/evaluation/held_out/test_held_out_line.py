"""Reference and evaluate on a packed store: planted truths, contracts, bad predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from statetx.config import Dataset, Evaluation, Simulate
from statetx.core.errors import ResultsError
from statetx.core.fingerprint import followed_modules
from statetx.data.pack.pack import pack
from statetx.data.sets.control_matching import draw_controls
from statetx.data.simulate import line_names, simulate
from statetx.data.store.layout import file_name
from statetx.data.store.plan import read_plan, write_plan
from statetx.data.store.roles import control_runs
from statetx.data.store.store import open_store
from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.held_out.evaluate import evaluate_run
from statetx.evaluation.held_out.reference import reference
from statetx.evaluation.scores.columns import COLUMNS, IDENTITY, IMPOSSIBLE, parse_note
from statetx.evaluation.verdict.cohort import REFERENCES

SETTINGS = Evaluation(max_cells=100)
LINE = "L01"


@pytest.fixture(scope="module")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough cells that half of a condition still knows its drug: 3 lines, 6 drugs, 2 doses."""
    size = {"n_lines": 3, "n_drugs": 6, "doses": [0.5, 5.0], "n_genes": 300, "n_hvg": 150}
    settings = Simulate(**size, cells_per_condition=40, controls_per_line=300, seed=1)
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("pack")
    simulate(settings, source)
    dataset = Dataset(
        files="simulate",
        simulate=settings,
        control_pert="DMSO_TF_00",
        scale="counts",
        expression_key="X_hvg",
    )
    files = [source / f"{file_name(line)}.h5ad" for line in line_names(settings)]
    pack(files, dataset, "road", out)
    return out


@pytest.fixture(scope="module")
def wide_plan(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drugs (six conditions) of L01 are tested; L01's other drugs and lines train."""
    table = open_store(store_dir).conditions
    table = table.loc[~table["is_control"], ["line", "perturbation", "drug"]].drop_duplicates()
    drugs = sorted(table["drug"].unique())
    tested = (table["line"] == LINE) & table["drug"].isin(drugs[:3])
    table["role"], table["reason"] = np.where(tested, "test", "train"), ""
    path = tmp_path_factory.mktemp("wide") / "plan.parquet"
    write_plan(pd.DataFrame(table), path)
    return path


@pytest.fixture(scope="module")
def made(store_dir: Path, wide_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference")
    reference(store_dir, wide_plan, LINE, SETTINGS, out)
    return out


def predictions(store_dir: Path, plan: Path, kind: str) -> ad.AnnData:
    """Cells of a prediction with a known quality."""
    store = open_store(store_dir)
    line = store.line(LINE)
    names = read_plan(plan).perturbations("test", LINE)
    controls = line.expression(line.rows(store.control)).mean(axis=0)
    everywhere = 0.1 * np.abs(np.random.default_rng(9).normal(size=len(controls)))
    cells, labels = [], []
    for i, name in enumerate(names):
        rows = line.rows(name, SETTINGS.max_cells, SETTINGS.seed)
        real, other = (line.expression(line.rows(n)) for n in (name, names[(i + 2) % len(names)]))
        runs = control_runs(line, store.control, "test", "shared")
        basal = line.expression(draw_controls(line.name, runs, line.batches(rows), 0, name))
        one = {
            "truth": real,
            "no_change": basal,
            "opposite": basal - (real.mean(axis=0) - controls),
            "constant": np.tile(controls + everywhere, (len(rows), 1)),
            "moved": basal + everywhere,
            "other": basal + other.mean(axis=0) - controls,
        }[kind]
        cells.append(one)
        labels += [name] * len(rows)
    x = np.clip(np.concatenate(cells), 0, None).astype(np.float32)
    return ad.AnnData(
        x,
        obs=pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))]),
        var=pd.DataFrame(index=store.genes),
    )


@pytest.fixture(scope="module")
def scored(store_dir, wide_plan, made, tmp_path_factory):
    """Kind of prediction -> directory with its scores (made once)."""
    done: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in done:
            home = tmp_path_factory.mktemp(kind)
            predictions(store_dir, wide_plan, kind).write_h5ad(home / "pred.h5ad")
            evaluate_run(
                store_dir, wide_plan, LINE, home / "pred.h5ad", made, SETTINGS, home / "scores"
            )
            done[kind] = home / "scores"
        return done[kind]

    return get


def mean(path: Path) -> pd.Series:
    return pd.read_csv(path)[list(COLUMNS)].mean()


def test_files_and_columns(scored, made: Path, wide_plan: Path) -> None:
    out = scored("truth")
    names = read_plan(wide_plan).perturbations("test", LINE)
    for path in (out / "scores.csv", *(made / f"{end}.csv" for end in REFERENCES)):
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        assert list(table.columns) == [*IDENTITY, *COLUMNS, "note"]
        assert table["perturbation"].tolist() == names
        assert set(table["line"]) == {LINE}
        assert table["dose"].isin([0.5, 5.0]).all()
    results = pd.read_csv(out / "results.csv")
    assert list(results.columns) == ["perturbation", *cell_eval.columns("full")]
    assert len(pd.read_csv(out / "agg_results.csv")) == 9
    assert {path.name for path in made.iterdir()} == {
        "real_de.parquet",
        "pseudobulk.parquet",
        "floor.csv",
        "mean_response.csv",
        "interpolated_duplicate.csv",
        "ceiling.csv",
        "bandwidths.json",
    }
    written = json.loads((made / "bandwidths.json").read_text())
    assert len(written["gammas"]) == 5
    assert (written["max_cells"], written["seed"]) == (SETTINGS.max_cells, SETTINGS.seed)


def test_the_truth_reaches_the_ceiling(scored, made: Path) -> None:
    truth, ceiling, floor = (
        mean(p) for p in (scored("truth") / "scores.csv", made / "ceiling.csv", made / "floor.csv")
    )
    assert truth["pearson_delta"] == pytest.approx(1)
    assert truth["pearson_delta_perturbed"] == pytest.approx(1)
    assert truth["pds_cosine"] == 1
    assert truth["de_overlap"] == 1
    assert truth["spread_ratio"] == pytest.approx(1)
    assert truth["delta_norm_ratio"] == pytest.approx(1)
    assert truth["variety"] == pytest.approx(truth["variety_real"])
    assert truth["energy"] < 0 < floor["energy"]
    # Most of the drugs are near null at 40 cells, where both are noise about 0: the strongest tells.
    by_condition = [pd.read_csv(made / f"{n}.csv")["pearson_delta"] for n in ("ceiling", "floor")]
    strongest = int(by_condition[0].argmax())
    assert by_condition[1][strongest] < by_condition[0][strongest] - 0.2
    assert floor["energy"] > ceiling["energy"]
    # Against the whole of the real cells a replicate errs by the noise of its own half.
    assert truth["mse_unbiased"] < 0 < ceiling["mse_unbiased"]
    results = pd.read_csv(scored("truth") / "results.csv")
    assert (results["mse"] < 1e-12).all()
    assert (results["pearson_delta"] > 1 - 1e-9).all()


def test_what_moves_cells_invents_no_significant_genes(made: Path) -> None:
    """Most genes are expressed in few cells: lifting their zeros makes each of them significant."""
    duplicate, ceiling, response = (
        mean(made / f"{name}.csv")
        for name in ("interpolated_duplicate", "ceiling", "mean_response")
    )
    assert duplicate["direction_fidelity"] > 0.7 * ceiling["direction_fidelity"]
    assert duplicate["de_mcc"] > 0.7 * ceiling["de_mcc"]
    assert response["spread_ratio"] == pytest.approx(1, abs=0.3)


def test_the_opposite_loses_and_nothing_scores_nothing(scored) -> None:
    opposite = mean(scored("opposite") / "scores.csv")
    nothing = mean(scored("no_change") / "scores.csv")
    assert opposite["pearson_delta"] < -0.5
    assert opposite["pds_cosine"] < 0.3
    assert opposite["mse_unbiased"] > 2 * opposite["mse_control"]
    assert abs(nothing["pearson_delta"]) < 0.2
    assert nothing["mse_unbiased"] > nothing["mse_control"]  # by the noise of 40 cells


def test_one_prediction_for_all_is_at_chance(scored) -> None:
    table = pd.read_csv(scored("constant") / "scores.csv")
    assert table["pds_cosine"].mean() == pytest.approx(0.5)
    assert table["spread_ratio"].max() < 1e-6
    assert (table["variety"].abs() < 0.05 * table["variety_real"].mean()).all()
    # Cells of the right plates know the plate, which must not pass for knowing the drug.
    assert mean(scored("moved") / "scores.csv")["pds_cosine"] == pytest.approx(0.5, abs=0.25)
    wrong = mean(scored("other") / "scores.csv")
    assert wrong["pds_cosine"] < 0.5


def test_rerun_gives_equal_bytes(store_dir, wide_plan, made, scored, tmp_path: Path) -> None:
    reference(store_dir, wide_plan, LINE, SETTINGS, tmp_path / "again")
    for name in (*(f"{end}.csv" for end in REFERENCES), "bandwidths.json"):
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()


def test_a_line_without_training_falls_back_and_says_so(store_dir, wide_plan, tmp_path) -> None:
    table = read_plan(wide_plan).table.copy()
    table = table[(table["line"] != LINE) | (table["role"] == "test")]
    write_plan(table, tmp_path / "plan.parquet")
    reference(store_dir, tmp_path / "plan.parquet", LINE, SETTINGS, tmp_path / "out")
    floor = pd.read_csv(tmp_path / "out" / "floor.csv")
    assert all("all training cell lines" in parse_note(note)["reference"] for note in floor["note"])
    assert floor["pearson_delta_perturbed"].notna().all()


@pytest.mark.parametrize("change", [{"max_cells": 99}, {"seed": 1}])
def test_a_reference_of_other_settings(change, store_dir, wide_plan, made, tmp_path: Path) -> None:
    predictions(store_dir, wide_plan, "truth").write_h5ad(tmp_path / "pred.h5ad")
    other = SETTINGS.model_copy(update=change)
    with pytest.raises(ResultsError, match="max_cells 100 and seed 0, the settings say") as caught:
        evaluate_run(
            store_dir, wide_plan, LINE, tmp_path / "pred.h5ad", made, other, tmp_path / "out"
        )
    assert caught.value.where == str(made)
    assert "reference stage again" in caught.value.fix
    assert not (tmp_path / "out").exists()


BAD = {
    "nan": (lambda p: p.X.__setitem__((3, 2), np.nan), "not finite"),
    "negative": (lambda p: p.X.__setitem__((3, 2), -0.5), "negative"),
    "gene": (lambda p: p[:, :-1].copy(), r"the genes differ: 1 in the store only \('Gene0299'\)"),
    "counts": (lambda p: p.__setattr__("X", np.rint(p.X)), "not log1p values: all values are whole"),
    "line": (lambda p: p.obs.__setitem__("cell_line", "L02"), "cells of 'L02', not of 'L01'"),
    "missing": (lambda p: p[p.obs["perturbation"] != p.obs["perturbation"].iloc[0]].copy(), "no predicted cells"),
    "extra": (
        lambda p: p.__setattr__("obs", p.obs.assign(perturbation=p.obs["perturbation"].where(np.arange(len(p)) > 0, "Drugg_9"))),
        "does not test",
    ),
    "count": (lambda p: p[1:].copy(), "real cells are scored"),
    "column": (lambda p: p.obs.__delitem__("perturbation"), "cannot read the predictions"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_predictions(name, store_dir, wide_plan, made, tmp_path: Path) -> None:
    change, message = BAD[name]
    wrong = predictions(store_dir, wide_plan, "truth")
    wrong = change(wrong) or wrong
    wrong.write_h5ad(tmp_path / "pred.h5ad")
    before = (tmp_path / "pred.h5ad").read_bytes()
    with pytest.raises(ResultsError, match=message) as caught:
        evaluate_run(
            store_dir, wide_plan, LINE, tmp_path / "pred.h5ad", made, SETTINGS, tmp_path / "out"
        )
    assert str(tmp_path / "pred.h5ad") in caught.value.where
    assert caught.value.fix
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "pred.h5ad").read_bytes() == before


def test_genes_in_another_order_are_aligned_by_name(store_dir, wide_plan, made, scored, tmp_path):
    predictions(store_dir, wide_plan, "other")[:, ::-1].copy().write_h5ad(tmp_path / "pred.h5ad")
    evaluate_run(
        store_dir, wide_plan, LINE, tmp_path / "pred.h5ad", made, SETTINGS, tmp_path / "out"
    )
    for name in ("scores.csv", "results.csv"):
        expected = pd.read_csv(scored("other") / name)
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / name), expected)


def test_values_that_no_cell_can_have_are_noted(store_dir, wide_plan, made, tmp_path: Path) -> None:
    high = predictions(store_dir, wide_plan, "truth")
    high.X[2, :3] = 16.0
    high.write_h5ad(tmp_path / "pred.h5ad")
    evaluate_run(
        store_dir, wide_plan, LINE, tmp_path / "pred.h5ad", made, SETTINGS, tmp_path / "out"
    )
    table = pd.read_csv(tmp_path / "out" / "scores.csv", index_col="perturbation")
    notes = table["note"].map(parse_note)
    assert notes[high.obs["perturbation"].iloc[0]][IMPOSSIBLE].startswith("3 predicted values")
    assert sum(IMPOSSIBLE in note for note in notes) == 1


def test_truncated_and_foreign_files(store_dir, wide_plan, made, tmp_path: Path) -> None:
    (tmp_path / "pred.h5ad").write_bytes(b"not a file")
    args = (store_dir, wide_plan, LINE, tmp_path / "pred.h5ad")
    with pytest.raises(ResultsError, match="cannot read the predictions"):
        evaluate_run(*args, made, SETTINGS, tmp_path / "out")
    predictions(store_dir, wide_plan, "truth").write_h5ad(tmp_path / "pred.h5ad")
    with pytest.raises(ResultsError, match="cannot read the reference"):
        evaluate_run(*args, tmp_path / "nowhere", SETTINGS, tmp_path / "out")
    broken = tmp_path / "reference"
    shutil.copytree(made, broken)
    (broken / "real_de.parquet").write_bytes(b"PAR1")
    with pytest.raises(ResultsError, match="differential expression"):
        evaluate_run(*args, broken, SETTINGS, tmp_path / "out")
    with pytest.raises(ResultsError, match="tests nothing"):
        reference(store_dir, wide_plan, "L02", SETTINGS, tmp_path / "out")


def test_scoring_files_is_no_part_of_scoring_a_run() -> None:
    """Else every change to reading somebody's files would make all scores stale."""
    followed = followed_modules(["statetx.evaluation.held_out.evaluate"])
    assert not {
        "statetx.evaluation.standalone.evaluate_files",
        "statetx.evaluation.standalone.cells_file",
    } & set(followed)
