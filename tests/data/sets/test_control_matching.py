"""Controls of cells: from where, how evenly, and when there are none."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from set_tables import CONTROL, drawn_epoch, table

from statetx.config import Dataset
from statetx.core.errors import ResultsError
from statetx.data.pack.pack import pack
from statetx.data.sets import set_table as sets
from statetx.data.sets.control_matching import draw_controls
from statetx.data.store.plan import Plan, read_plan, write_plan
from statetx.data.store.roles import control_runs, shares
from statetx.data.store.store import Store, open_store


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> Store:
    return open_store(tiny_store)


@pytest.fixture(scope="module")
def plan(tiny_plan: Path) -> Plan:
    return read_plan(tiny_plan)


def runs_of(store: Store, line: str = "L01") -> dict[str, tuple[int, int]]:
    return control_runs(store.line(line), CONTROL, "train", "shared")


def test_controls_come_from_the_batch_and_without_replacement(store: Store) -> None:
    line = store.line("L01")
    batches = np.array(["plate1"] * 30 + ["plate2"] * 45, dtype=object)
    np.random.default_rng(0).shuffle(batches)
    drawn = draw_controls("L01", runs_of(store), batches, 0, "a")
    assert np.array_equal(line.batches(drawn), batches)
    assert set(drawn) <= set(line.rows(CONTROL))
    first = Counter(drawn[batches == "plate1"].tolist())
    assert len(first) == 30, "30 cells, 30 controls: each of them once"
    second = Counter(drawn[batches == "plate2"].tolist())
    assert set(second.values()) == {1, 2}, "45 cells, 30 controls: all once before any twice"
    assert np.array_equal(drawn, draw_controls("L01", runs_of(store), batches, 0, "a"))
    for other in (
        draw_controls("L01", runs_of(store), batches, 0, "b"),
        draw_controls("L01", runs_of(store), batches, 1, "a"),
        draw_controls("L02", runs_of(store), batches, 0, "a"),
    ):
        assert not np.array_equal(drawn, other)


def test_controls_are_drawn_uniformly(store: Store) -> None:
    batches = np.array(["plate1"] * 5, dtype=object)
    drawn = [draw_controls("L01", runs_of(store), batches, 0, i) for i in range(1200)]
    start, stop = runs_of(store)["plate1"]
    counts = np.bincount(np.concatenate(drawn) - start, minlength=stop - start)
    assert len(counts) == 30
    statistic = stats.chisquare(counts).statistic * 29 / 25
    assert 1e-3 < stats.chi2(29).sf(statistic) < 1 - 1e-3


@pytest.mark.parametrize("how", ["paired", "random"])
def test_controls_of_sets_are_drawn_uniformly(store: Store, plan: Plan, how: str) -> None:
    made = table(store, plan, controls=how)
    counts: Counter[int] = Counter()
    repeats = 0
    for epoch in range(30):
        drawn = drawn_epoch(made, epoch)
        lines = made.conditions["line"].to_numpy()[drawn.condition]
        for rows, controls in zip(drawn.rows[lines == "L01"], drawn.controls[lines == "L01"], strict=True):  # fmt: skip
            line = store.line("L01")
            assert np.array_equal(line.batches(rows), line.batches(controls))
            repeats += len(controls) - len(set(controls.tolist()))
            counts.update(controls.tolist())
    own = store.line("L01").rows(CONTROL)
    found = np.asarray([counts[row] for row in own])
    for batch in ("plate1", "plate2"):
        here = store.line("L01").batches(own) == batch
        assert stats.chisquare(found[here]).pvalue > 1e-3
    assert (repeats == 0) == (how == "paired")


def test_control_cells_may_be_their_own_controls(store: Store, plan: Plan) -> None:
    for how in ("identity", "drawn", "none"):
        made = table(store, plan, control_sets=how)
        drawn = drawn_epoch(made, 0)
        control = (made.conditions["perturbation"] == CONTROL).to_numpy()[drawn.condition]
        equal = (drawn.rows == drawn.controls).all(axis=1)
        assert control.any() == (how != "none")
        assert np.array_equal(equal, control if how == "identity" else np.zeros_like(control))


@pytest.fixture(scope="module")
def without_plate2(
    tiny_source: Path, tiny_settings: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A line whose plate 2 has no control."""
    home = tmp_path_factory.mktemp("unmatched")
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    gone = (adata.obs["drug_dose"] == CONTROL) & (adata.obs["batch"] == "plate2")
    adata[~gone].copy().write_h5ad(home / "a.h5ad")
    pack([home / "a.h5ad"], tiny_settings, "unmatched", home / "pack")
    return open_store(home / "pack")


def all_train(store: Store) -> Plan:
    pairs = store.conditions.loc[~store.conditions["is_control"], ["line", "perturbation"]]
    return Plan(pairs.drop_duplicates().assign(role="train", reason=""))


def test_a_batch_without_controls_uses_those_of_the_line(without_plate2: Store) -> None:
    line, runs = without_plate2.line("L01"), runs_of(without_plate2)
    batches = np.array(["plate1", "plate2", "plate2", "plate1"], dtype=object)
    drawn = draw_controls("L01", runs, batches, 0, "a")
    assert set(line.batches(drawn)) == {"plate1"}
    assert len(set(drawn[1:3])) == 2
    made = table(without_plate2, all_train(without_plate2))
    cells = without_plate2.conditions
    levels = {row["level"]: row["cells"] for row in made.coverage()}
    assert levels["line"] == cells.loc[cells["batch"] == "plate2", "n_cells"].sum() > 0
    assert levels["line and batch"] == cells.loc[cells["batch"] == "plate1", "n_cells"].sum()
    assert sum(row["share"] for row in made.coverage()) == pytest.approx(1.0)


def test_an_exhausted_list_is_an_error(without_plate2: Store) -> None:
    with pytest.raises(ResultsError, match=r"line 'L01', batch 'plate2' have no control") as caught:
        table(without_plate2, all_train(without_plate2), by_batch=(True,))
    assert "control_match" in str(caught.value)
    batches = np.array(["plate2"], dtype=object)
    with pytest.raises(ResultsError, match="have no control cell"):
        draw_controls("L01", runs_of(without_plate2), batches, 0, "a", (True,))
    with pytest.raises(ResultsError, match="no perturbation 'DMSO'"):
        control_runs(without_plate2.line("L01"), "DMSO", "train", "shared")


def test_partitioned_controls_serve_one_role_each(store: Store, plan: Plan, tmp_path: Path) -> None:
    write_plan(plan.table, tmp_path / "plan.parquet", "partition")
    parted = read_plan(tmp_path / "plan.parquet")
    assert parted.controls == "partition"
    assert parted.digest != plan.digest
    pd.testing.assert_frame_equal(parted.table, plan.table)
    line = store.line("L02")
    seen = {
        role: {
            row
            for start, stop in control_runs(line, CONTROL, role, "partition").values()
            for row in range(start, stop)
        }
        for role in ("train", "val", "test")
    }
    assert set.union(*seen.values()) == set(line.rows(CONTROL).tolist())
    assert sum(map(len, seen.values())) == 60
    assert [len(seen[role]) for role in ("train", "val", "test")] == [48, 6, 6]
    for role in ("train", "val"):
        made = table(store, parted, role=role)
        drawn = drawn_epoch(made, 0)
        here = (made.conditions["line"] == "L02").to_numpy()[drawn.condition]
        assert set(drawn.controls[here].ravel().tolist()) <= seen[role]
        targets = set(drawn.rows[here].ravel().tolist()) & set(line.rows(CONTROL).tolist())
        assert targets <= seen["train"]
        assert bool(targets) == (role == "train")


@pytest.mark.parametrize("sizes", [[1], [3], [10], [57, 1000], [4] * 10, [1] * 20, [0, 9, 0, 11]])
def test_shares_are_disjoint_complete_and_right_for_the_line(sizes: list[int]) -> None:
    whole = np.asarray(sizes, dtype=np.int64)
    cuts = [shares(whole, role) for role in ("train", "val", "test")]
    assert (cuts[0][0] == 0).all()
    assert np.array_equal(cuts[2][1], whole)
    for a, b in itertools.pairwise(cuts):
        assert np.array_equal(a[1], b[0])
    counts = [int((last - first).sum()) for first, last in cuts]
    assert all((last >= first).all() for first, last in cuts)
    assert counts[2] > 0, "test keeps at least one"
    if whole.sum() >= 10:
        assert counts[1] > 0
        assert abs(counts[0] - 0.8 * whole.sum()) <= 1


def test_conditions_and_labels_that_cannot_be_served(store: Store, plan: Plan) -> None:
    wrong = plan.table.copy()
    wrong.loc[wrong.index[0], ["perturbation", "role"]] = ["Drug01_6", "train"]
    with pytest.raises(ResultsError, match="no perturbation 'Drug01_6'") as caught:
        table(store, Plan(wrong))
    assert "did you mean 'Drug01_5'?" in str(caught.value)
    with pytest.raises(ResultsError, match=r"1 perturbations have no id.*'Drug02_5'"):
        sets.check_vocabulary(["Drug02_5", "Drug02_0.5"], [CONTROL, "Drug02_0.5"])
