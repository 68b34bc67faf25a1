"""Sets of cells and their controls."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import stats

from statetx.config import Dataset
from statetx.data import sets
from statetx.data.loader import SetBatch, SetLoader
from statetx.data.pack import pack
from statetx.data.plan import Plan, read_plan
from statetx.data.store import Store, open_store
from statetx.errors import ResultsError

CONTROL = "DMSO_TF_00"


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> Store:
    return open_store(tiny_store)


@pytest.fixture(scope="module")
def plan(tiny_plan: Path) -> Plan:
    return read_plan(tiny_plan)


def vocabulary(plan: Plan) -> list[str]:
    return [CONTROL, *plan.perturbations("train")]


def loader(store: Store, plan: Plan, role: str = "train", **settings: object) -> SetLoader:
    settings = {"cell_set_len": 8, "batch_size": 6, **settings}
    return SetLoader(store, plan, role, vocabulary(plan), **settings)  # type: ignore[arg-type]


def same(a: list[SetBatch], b: list[SetBatch]) -> bool:
    names = ("control", "target", "perturbation", "line")
    return len(a) == len(b) and all(
        np.array_equal(getattr(x, n), getattr(y, n))
        for x, y in zip(a, b, strict=True)
        for n in names
    )


@pytest.mark.parametrize("size", [4, 7, 20, 33, 200])
@pytest.mark.parametrize(("epoch", "permuted"), [(0, 8192), (3, 8192), (3, 0)])
def test_every_cell_is_visited_and_evenly(
    store: Store,
    plan: Plan,
    size: int,
    epoch: int,
    permuted: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sets, "PERMUTED_CELLS", permuted)
    pairs = sets.conditions(store, plan, "train")
    visits: dict[tuple[str, str], list[np.ndarray]] = {}
    for one in sets.epoch_plan(store, pairs, size, 0, epoch):
        rows = sets.set_rows(store.line(one.line), one, size, 0, epoch)
        assert len(rows) == size
        visits.setdefault((one.line, one.perturbation), []).append(rows)
    assert set(visits) == set(pairs)
    for (line, perturbation), parts in visits.items():
        own = store.line(line).rows(perturbation)
        counts = Counter(np.concatenate(parts).tolist())
        assert set(counts) == set(own.tolist()), "every cell of the condition and no other"
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(parts) == -(-len(own) // size)
        if len(own) >= size:
            assert all(len(set(rows.tolist())) == size for rows in parts)


def test_membership_changes_between_epochs_and_repeats_within(store: Store, plan: Plan) -> None:
    pairs = sets.conditions(store, plan, "train")

    def members(epoch: int, seed: int = 0) -> set[frozenset[int]]:
        return {
            frozenset(sets.set_rows(store.line(one.line), one, 8, seed, epoch).tolist())
            for one in sets.epoch_plan(store, pairs, 8, seed, epoch)
            if one.line == "L01"
        }

    first = members(0)
    assert members(0) == first
    assert len(members(1) & first) < 0.2 * len(first)
    assert len(members(0, seed=1) & first) < 0.2 * len(first)
    orders = [sets.epoch_plan(store, pairs, 8, 0, epoch) for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert set(orders[0]) == set(orders[2])


def test_windows_of_a_large_condition_are_contiguous(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "PERMUTED_CELLS", 0)
    line, own = store.line("L01"), store.line("L01").rows(CONTROL)
    starts = set()
    for epoch in range(5):
        rows = sets.set_rows(line, sets.SetId("L01", CONTROL, 0), 8, 0, epoch)
        steps = np.diff(rows)
        assert set(steps.tolist()) <= {1, own[0] - own[-1]}, "one run, or two at the seam"
        starts.add(int(rows[0]))
    assert len(starts) > 1


def test_a_draw_knows_nothing_of_other_conditions_or_of_global_state(
    store: Store, plan: Plan
) -> None:
    pairs = sets.conditions(store, plan, "train")
    one = sets.SetId("L02", "Drug03_5", 1)
    line = store.line("L02")
    rows = sets.set_rows(line, one, 8, 5, 2)
    np.random.seed(1)  # noqa: NPY002 (must not matter)
    sets.epoch_plan(store, pairs[::2], 8, 5, 2)
    assert np.array_equal(sets.set_rows(line, one, 8, 5, 2), rows)


def test_controls_are_training_targets_of_every_line_but_do_not_dominate(
    store: Store, plan: Plan
) -> None:
    train = sets.conditions(store, plan, "train")
    assert {line for line, name in train if name == CONTROL} == set(store.lines)
    assert all(name != CONTROL for _, name in sets.conditions(store, plan, "val"))
    order = sets.epoch_plan(store, train, 8, 0, 0)
    per_line = Counter(one.line for one in order if one.perturbation == CONTROL)
    assert set(per_line.values()) == {-(-60 // 8)}
    roles = {(r.line, r.perturbation): r.role for r in plan.table.itertuples()}
    assert {roles[one.line, one.perturbation] for one in order if one.perturbation != CONTROL} == {"train"}  # fmt: skip


def test_controls_come_from_the_batch_and_without_replacement(store: Store) -> None:
    line = store.line("L01")
    batches = np.array(["plate1"] * 30 + ["plate2"] * 45, dtype=object)
    np.random.default_rng(0).shuffle(batches)
    drawn = sets.draw_controls(line, CONTROL, batches, 0, "a")
    assert np.array_equal(line.batches(drawn), batches)
    assert set(drawn) <= set(line.rows(CONTROL))
    first = Counter(drawn[batches == "plate1"].tolist())
    assert len(first) == 30, "30 cells, 30 controls: each of them once"
    second = Counter(drawn[batches == "plate2"].tolist())
    assert set(second.values()) == {1, 2}, "45 cells, 30 controls: all once before any twice"
    assert np.array_equal(drawn, sets.draw_controls(line, CONTROL, batches, 0, "a"))
    for other in (
        sets.draw_controls(line, CONTROL, batches, 0, "b"),
        sets.draw_controls(line, CONTROL, batches, 1, "a"),
    ):
        assert not np.array_equal(drawn, other)


def test_controls_are_drawn_uniformly(store: Store) -> None:
    line = store.line("L01")
    batches = np.array(["plate1"] * 5, dtype=object)
    drawn = [sets.draw_controls(line, CONTROL, batches, 0, i) for i in range(600)]
    counts = np.bincount(np.concatenate(drawn))
    counts = counts[np.unique(np.concatenate(drawn))]
    assert len(counts) == 30
    assert stats.chisquare(counts).pvalue > 1e-3


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


def test_a_batch_without_controls_uses_those_of_the_line(without_plate2: Store) -> None:
    line = without_plate2.line("L01")
    batches = np.array(["plate1", "plate2", "plate2", "plate1"], dtype=object)
    assert sets.match_levels(line, CONTROL, batches).tolist() == [0, 1, 1, 0]
    drawn = sets.draw_controls(line, CONTROL, batches, 0, "a")
    assert set(line.batches(drawn)) == {"plate1"}
    assert len(set(drawn[1:3])) == 2


def test_no_controls_at_all_is_an_error(store: Store) -> None:
    batches = np.array(["plate1"], dtype=object)
    with pytest.raises(ResultsError, match="no perturbation 'DMSO'"):
        sets.draw_controls(store.line("L01"), "DMSO", batches, 0, "a")


def test_batches_hold_the_cells_they_say(store: Store, plan: Plan) -> None:
    """Follow every row of every batch back to its cell, through its unique expression."""
    cells = {}
    for name in store.lines:
        packed = anndata.read_h5ad(store.directory / f"{name}.h5ad")
        for i, vector in enumerate(packed.obsm["X_hvg"]):
            obs = packed.obs.iloc[i]
            cells[vector.tobytes()] = (name, str(obs["perturbation"]), str(obs["batch"]))
    assert len(cells) == sum(store.line(name).n_cells for name in store.lines), "all differ"
    chosen = loader(store, plan)
    names = vocabulary(plan)
    n_sets = 0
    for batch in chosen.epoch(2):
        assert batch.target.shape == batch.control.shape == (len(batch.line), 8, 60)
        assert batch.target.dtype == batch.control.dtype == np.float32
        assert batch.perturbation.dtype == batch.line.dtype == np.int64
        for b in range(len(batch.line)):
            n_sets += 1
            condition = (chosen.lines[batch.line[b]], names[batch.perturbation[b]])
            for target, control in zip(batch.target[b], batch.control[b], strict=True):
                line, perturbation, plate = cells[target.tobytes()]
                assert (line, perturbation) == condition
                assert cells[control.tobytes()] == (line, CONTROL, plate)
    assert n_sets == chosen.n_sets


def test_loader_is_a_function_of_seed_and_epoch(store: Store, plan: Plan) -> None:
    ahead = loader(store, plan)
    first = list(ahead.epoch(1))
    assert len(first) == len(ahead)
    assert same(first, list(ahead.epoch(1))), "asked twice"
    order = sets.epoch_plan(store, ahead.pairs, 8, 0, 1)
    chunks = [order[at : at + 6] for at in range(0, len(order), 6)]
    assert same(first, [ahead.batch(chunk, 1) for chunk in chunks]), "without the thread"
    assert same(first[3:], list(ahead.epoch(1, first_batch=3))), "resumed"
    assert not same(first, list(ahead.epoch(2)))
    assert not same(first, list(loader(store, plan, seed=1).epoch(1)))


def test_validation_has_its_conditions_only(store: Store, plan: Plan) -> None:
    chosen = loader(store, plan, "val", cell_set_len=5)
    names = vocabulary(plan)
    seen = {
        (chosen.lines[line], names[perturbation])
        for batch in chosen.epoch()
        for line, perturbation in zip(batch.line, batch.perturbation, strict=True)
    }
    assert seen == {("L02", "Drug02_0.5"), ("L02", "Drug02_5")}
    assert chosen.width == 60


def test_leaving_early_stops_the_thread(store: Store, plan: Plan) -> None:
    import threading

    batches = loader(store, plan).epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "statetx-loader"]


def test_an_error_in_the_thread_reaches_the_reader(
    store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = loader(store, plan)

    def broken(*_: object) -> SetBatch:
        raise ResultsError("the disk went away")

    monkeypatch.setattr(chosen, "batch", broken)
    with pytest.raises(ResultsError, match="the disk went away"):
        list(chosen.epoch(0))


def test_roles_and_labels_that_cannot_be_served(store: Store, plan: Plan) -> None:
    with pytest.raises(ResultsError, match=r"1 perturbations have no id.*'Drug02_5'"):
        SetLoader(store, plan, "val", [CONTROL, "Drug02_0.5"], cell_set_len=4, batch_size=2)
    table = plan.table[plan.table["role"] != "val"]
    with pytest.raises(ResultsError, match="no condition of role 'val'"):
        list(loader(store, Plan(table), "val").epoch())


def test_order_of_files_does_not_matter(
    tiny_source: Path, tiny_settings: Dataset, tiny_store: Path, plan: Plan, tmp_path: Path
) -> None:
    shutil.copytree(tiny_source, tmp_path / "source")
    files = sorted((tmp_path / "source").glob("*.h5ad"), reverse=True)
    pack(files, tiny_settings, "tiny", tmp_path / "pack")
    a = list(loader(open_store(tiny_store), plan).epoch(0))
    assert same(a, list(loader(open_store(tmp_path / "pack"), plan).epoch(0)))
