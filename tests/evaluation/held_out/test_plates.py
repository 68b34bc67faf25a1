"""A plate is no effect: in tests, in the ceiling, in halves of few controls."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from line_samples import CONTROL, LINE, Line, Store, install

from statetx.config import Evaluation
from statetx.evaluation.held_out.batch_controls import BatchControls
from statetx.evaluation.held_out.evaluate import evaluate_run
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.held_out.reference import reference
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.scores.differential_expression import compare
from statetx.evaluation.scores.pseudobulk import Controls

G = 60
SETTINGS = Evaluation(max_cells=200)
NOTHING = np.zeros(G)


def plates(*names: str, size: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    return {name: size * rng.normal(size=G) for name in names}


def plated(effect: float, n_drugs: int = 12) -> tuple[Line, list[str]]:
    """Drugs on one of three plates each; 80 controls per plate."""
    shifts = plates("a", "b", "c", size=0.6)
    rng = np.random.default_rng(5)
    parts = {CONTROL: [(plate, 80, NOTHING) for plate in shifts]}
    tested = [f"D{i:02d}" for i in range(n_drugs)]
    for i, name in enumerate(tested):
        parts[name] = [("abc"[i % 3], 40, effect * rng.normal(size=G))]
    return Line(parts, shifts), tested


def control_cells(line: Line, tested: list[str], path: Path) -> Path:
    """Prediction that does nothing: control cells of the right plates."""
    rng = np.random.default_rng(3)
    cells, labels = [], []
    for name in tested:
        rows = line.rows(name)
        own = [
            np.flatnonzero((line.labels == CONTROL) & (line.where == p)) for p in line.where[rows]
        ]
        cells.append(line.cells[[rng.choice(rows) for rows in own]])
        labels += [name] * len(rows)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"g{i}" for i in range(G)])
    ad.AnnData(np.concatenate(cells), obs=obs, var=var).write_h5ad(path)
    return path


def run(monkeypatch, line: Line, tested: list[str], home: Path) -> None:
    plan = install(monkeypatch, line, tested, home)
    reference("store", plan, LINE, SETTINGS, home / "reference")
    pred = control_cells(line, tested, home / "pred.h5ad")
    evaluate_run("store", plan, LINE, pred, home / "reference", SETTINGS, home / "scores")


def test_a_null_drug_on_a_shifted_plate_has_no_significant_genes(monkeypatch, tmp_path) -> None:
    line, tested = plated(effect=0.0)
    run(monkeypatch, line, tested, tmp_path)
    for table in ("reference/real_de.parquet", "scores/de.parquet"):
        assert (pd.read_parquet(tmp_path / table)["fdr"] < 0.05).mean() < 0.01
    everywhere = SortedControl.from_cells(line.expression(line.rows(CONTROL)))
    targets = [(name, line.expression(line.rows(name))) for name in tested]
    assert compare(targets, everywhere, Store(line).genes).significant.mean() > 0.4


def test_doing_nothing_moves_genes_the_right_way_by_chance(monkeypatch, tmp_path) -> None:
    line, tested = plated(effect=0.5)
    run(monkeypatch, line, tested, tmp_path)
    real, pred = (
        pd.read_parquet(tmp_path / name)
        for name in ("reference/real_de.parquet", "scores/de.parquet")
    )
    chosen = (real["fdr"] < 0.05).to_numpy()
    signs = [np.sign(table["log2_fold_change"].to_numpy()[chosen]) for table in (real, pred)]
    assert (signs[0] == signs[1]).mean() == pytest.approx(0.5, abs=0.06)
    scores = pd.read_csv(tmp_path / "scores" / "scores.csv")
    floor = pd.read_csv(tmp_path / "reference" / "floor.csv")
    for table in (scores, floor):  # no gene of theirs is significant
        assert table["direction_fidelity"].mean() < 0.02
        assert table["lfc_nmae"].mean() > 0.9
    ceiling = pd.read_csv(tmp_path / "reference" / "ceiling.csv")
    assert ceiling["direction_fidelity"].mean() > 0.8
    assert ceiling["direction_reach"].mean() > 0.95


def test_cell_evals_tables_know_no_batches(monkeypatch, tmp_path: Path) -> None:
    """The same cells with and without batch labels: the same results.csv."""
    line, tested = plated(effect=0.5)
    written = []
    for name, where in (("plates", line.where), ("one", np.full(len(line.where), "a"))):
        pred = control_cells(line, tested, tmp_path / "pred.h5ad")
        copy = Line(line.parts, line.plates)
        copy.where = where
        home = tmp_path / name
        plan = install(monkeypatch, copy, tested, home)
        reference("store", plan, LINE, SETTINGS, home / "reference")
        evaluate_run("store", plan, LINE, pred, home / "reference", SETTINGS, home / "scores")
        written.append((home / "scores" / "results.csv").read_bytes())
    assert written[0] == written[1]


def test_which_controls_are_a_conditions_own() -> None:
    shifts = plates("a", "b", "few", "none", size=0.8)
    parts = {CONTROL: [("a", 30, NOTHING), ("b", 12, NOTHING), ("few", 9, NOTHING)]}
    line = Line(parts, shifts)
    scene = HeldOutLine(Store(line), line, [], 20, 0)
    own = BatchControls(scene)
    everything = scene.control_rows
    for batches in (["few"], ["a", "few"], ["none"], ["a", "b", "few"]):
        np.testing.assert_array_equal(own.rows_for(np.array(batches)), everything)
        assert own.for_batches(np.array(batches)) is own.all_controls
    b = own.rows_for(np.array(["b", "b"]))
    assert set(line.where[b]) == {"b"}
    assert len(b) == 12
    assert own.for_batches(np.array(["b"])) is own.for_batches(np.array(["b", "b"]))
    both = own.rows_for(np.array(["b", "a"]))
    assert len(both) == len(set(both)) == 20  # max_cells
    assert set(line.where[both]) == {"a", "b"}
    half = BatchControls(scene, scene.halves(scene.all_control_rows, "control")[0])
    assert len(half.rows_for(np.array(["b"]))) == 6  # batches are chosen on the whole line


def test_drugs_without_effect_score_zero_at_both_ends(monkeypatch, tmp_path: Path) -> None:
    """24 controls: what one half of them lacks is what the other half has."""
    names = [f"D{i:02d}" for i in range(80)]
    parts = {CONTROL: [("a", 24, NOTHING)]} | {name: [("a", 20, NOTHING)] for name in names}
    means = []
    for seed in range(3):
        line = Line(parts, {"a": NOTHING}, seed)
        plan = install(monkeypatch, line, names[:20], tmp_path)
        reference("store", plan, LINE, SETTINGS, tmp_path)
        tables = [pd.read_csv(tmp_path / f"{end}.csv") for end in ("floor", "ceiling")]
        means.append([table["pearson_delta_perturbed"].mean() for table in tables])
    np.testing.assert_allclose(np.mean(means, axis=0), 0, atol=0.06)


@pytest.mark.parametrize("n_controls", [14, 40])
def test_halves_of_few_controls_know_their_plates(monkeypatch, tmp_path, n_controls: int) -> None:
    shifts = plates("a", "b", size=0.8)
    names = [f"D{i:02d}" for i in range(80)]
    parts = {CONTROL: [(plate, n_controls, NOTHING) for plate in shifts]}
    parts |= {name: [("ab"[i % 2], 20, NOTHING)] for i, name in enumerate(names)}
    means = []
    for seed in range(4):
        plan = install(monkeypatch, Line(parts, shifts, seed), names[:20], tmp_path)
        reference("store", plan, LINE, SETTINGS, tmp_path)
        table = pd.read_csv(tmp_path / "ceiling.csv")
        means.append(table[["pearson_delta", "pearson_delta_perturbed", "pds_cosine"]].mean())
    # One draw of the halves stands behind all conditions of a line: four lines are averaged.
    np.testing.assert_allclose(np.mean(means, axis=0), [0, 0, 0.5], atol=0.12)


def test_batches_that_differ_by_sampling_only_are_no_batches() -> None:
    """Else noise along the most variable genes is taken for a batch effect and out of every delta."""
    rng = np.random.default_rng(0)
    spread = rng.gamma(0.5, 1.0, 300)
    cells = rng.normal(0.0, spread, (96, 300)).astype(np.float32) + 5
    labels = np.repeat([f"b{i}" for i in range(8)], 12)
    alike = Controls.from_blocks([(cells, labels)])
    assert alike.known == frozenset()
    assert alike.directions.shape == (300, 0)
    shifted = cells + np.repeat(rng.normal(0.0, 0.5 * spread, (8, 300)), 12, axis=0)
    assert Controls.from_blocks([(shifted.astype(np.float32), labels)]).known == set(labels)
