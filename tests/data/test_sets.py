"""Sets of cells and their controls, and the numbers behind every draw."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from statetx.config import Dataset, Sets
from statetx.data import draws, sets
from statetx.data.matching import control_runs, draw_controls, share
from statetx.data.pack import pack
from statetx.data.plan import Plan, read_plan, write_plan
from statetx.data.sets import SetTable
from statetx.data.store import Store, open_store
from statetx.errors import ResultsError

CONTROL = "DMSO_TF_00"


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> Store:
    return open_store(tiny_store)


@pytest.fixture(scope="module")
def plan(tiny_plan: Path) -> Plan:
    return read_plan(tiny_plan)


def table(
    store: Store, plan: Plan, size: int = 8, role: str = "train", **changes: object
) -> SetTable:
    seed = int(changes.pop("seed", 0))  # type: ignore[call-overload]
    levels = changes.pop("by_batch", (True, False))
    return SetTable(store, plan, role, size, Sets(**changes), levels, seed)  # type: ignore[arg-type]


def drawn_epoch(made: SetTable, epoch: int) -> sets.Drawn:
    return made.draw(*made.epoch(epoch), epoch)


def by_condition(made: SetTable, drawn: sets.Drawn) -> dict[tuple[str, ...], list[np.ndarray]]:
    names = made.conditions[["line", "perturbation", "batch"]].astype(str)
    out: dict[tuple[str, ...], list[np.ndarray]] = {}
    for b, condition in enumerate(drawn.condition):
        key = tuple(names.iloc[condition])
        out.setdefault(key, []).append(drawn.rows[b, : drawn.length[b]])
    return out


# ---------------------------------------------------------------------------------------------
# sets


@pytest.mark.parametrize("size", [4, 7, 20, 33, 200])
@pytest.mark.parametrize("mix", [1, 2, 3, 1000])
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_cell_is_visited_and_evenly(
    store: Store, plan: Plan, size: int, mix: int, epoch: int
) -> None:
    made = table(store, plan, size, mix_windows=mix)
    visits = by_condition(made, drawn_epoch(made, epoch))
    pairs = sets.conditions(store, plan, "train")
    assert {key[:2] for key in visits} == set(pairs)
    for (line, perturbation, _), parts in visits.items():
        own = store.line(line).rows(perturbation)
        counts = Counter(np.concatenate(parts).tolist())
        assert set(counts) == set(own.tolist()), "every cell of the condition and no other"
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(parts) == -(-len(own) // size)
        assert all(len(rows) == size for rows in parts)
        if len(own) >= size:
            assert all(len(set(rows.tolist())) == size for rows in parts)


@pytest.mark.parametrize("size", [4, 7, 33, 200])
@pytest.mark.parametrize("mix", [1, 2, 1000])
def test_masked_sets_visit_every_cell_exactly_once(
    store: Store, plan: Plan, size: int, mix: int
) -> None:
    made = table(store, plan, size, short="mask", mix_windows=mix)
    drawn = drawn_epoch(made, 1)
    assert drawn.length.min() < size
    for (line, perturbation, _), parts in by_condition(made, drawn).items():
        own = store.line(line).rows(perturbation)
        assert np.array_equal(np.sort(np.concatenate(parts)), own)
    behind = np.arange(size) >= drawn.length[:, None]
    assert np.array_equal(drawn.rows[behind], np.repeat(drawn.rows[:, :1], size, 1)[behind])


def test_dropped_sets_are_full_and_short_conditions_are_counted(store: Store, plan: Plan) -> None:
    made = table(store, plan, 20, short="drop")
    sizes = pd.Series({pair: len(store.line(pair[0]).rows(pair[1])) for pair in sets.conditions(store, plan, "train")})  # fmt: skip
    assert made.left_out == int((sizes < 20).sum()) > 0
    assert made.n_sets == int((sizes // 20).sum())
    for (line, perturbation, _), parts in by_condition(made, drawn_epoch(made, 0)).items():
        cells = np.concatenate(parts)
        assert len(set(cells.tolist())) == len(cells), "no cell twice"
        assert set(cells.tolist()) <= set(store.line(line).rows(perturbation).tolist())


def test_sets_within_a_batch(store: Store, plan: Plan) -> None:
    made = table(store, plan, within_batch=True)
    for (line, perturbation, batch), parts in by_condition(made, drawn_epoch(made, 0)).items():
        cells = store.line(line)
        assert set(cells.batches(np.concatenate(parts))) == {batch}
        start, stop = cells.run(perturbation, batch)
        assert set(np.concatenate(parts).tolist()) == set(range(start, stop))


def test_membership_changes_between_epochs_and_repeats_within(store: Store, plan: Plan) -> None:
    def members(epoch: int, seed: int = 0) -> set[tuple[str, frozenset[int]]]:
        made = table(store, plan, seed=seed)
        visits = by_condition(made, drawn_epoch(made, epoch))
        return {(key[0], frozenset(r.tolist())) for key, rows in visits.items() for r in rows}

    first = members(0)
    assert members(0) == first
    assert len(members(1) & first) < 0.05 * len(first)
    assert len(members(0, seed=1) & first) < 0.05 * len(first)
    made = table(store, plan)
    orders = [np.stack(made.epoch(epoch)) for epoch in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert set(map(tuple, orders[0].T)) == set(map(tuple, orders[2].T))


def test_windows_without_mixing_are_contiguous(store: Store, plan: Plan) -> None:
    made = table(store, plan, mix_windows=1)
    conditions = made.conditions
    control = int(np.flatnonzero(conditions["perturbation"] == CONTROL)[0])
    own = store.line(conditions.at[control, "line"]).rows(CONTROL)
    starts = set()
    for epoch in range(5):
        rows = made.draw(np.array([control]), np.array([0]), epoch).rows[0]
        assert set(np.diff(rows).tolist()) <= {1, own[0] - own[-1]}, "one run, or two at the seam"
        starts.add(int(rows[0]))
    assert len(starts) > 1


def test_a_draw_knows_nothing_of_other_conditions_or_of_global_state(
    store: Store, plan: Plan
) -> None:
    whole = table(store, plan, seed=5)
    names = whole.conditions[["line", "perturbation"]].apply(tuple, axis=1).tolist()
    target = names.index(("L03", "Drug04_5"))
    expected = whole.draw(np.array([target]), np.array([1]), 2)
    np.random.seed(1)  # noqa: NPY002 (must not matter)
    fewer = Plan(plan.table[plan.table["line"] == "L03"])
    part = table(store, fewer, seed=5)
    names = part.conditions[["line", "perturbation"]].apply(tuple, axis=1).tolist()
    alone = part.draw(np.array([names.index(("L03", "Drug04_5"))]), np.array([1]), 2)
    assert np.array_equal(alone.rows, expected.rows)
    everything = drawn_epoch(whole, 2)
    at = np.flatnonzero((whole.epoch(2)[0] == target) & (whole.epoch(2)[1] == 1))[0]
    assert np.array_equal(everything.rows[at], expected.rows[0])
    assert np.array_equal(everything.controls[at], expected.controls[0])


def test_cells_of_a_set_are_a_uniform_sample(store: Store, plan: Plan) -> None:
    made = table(store, plan, 5)
    control = int(np.flatnonzero(made.conditions["perturbation"] == CONTROL)[0])
    first = np.concatenate(
        [made.draw(np.array([control]), np.array([3]), epoch).rows[0] for epoch in range(2400)]
    )
    own = store.line(made.conditions.at[control, "line"]).rows(CONTROL)
    counts = np.bincount(first - own[0], minlength=len(own))
    # Without replacement inside a set: the statistic is smaller by (n - S) / (n - 1).
    statistic = stats.chisquare(counts).statistic * (len(own) - 1) / (len(own) - 5)
    assert 1e-3 < stats.chi2(len(own) - 1).sf(statistic) < 1 - 1e-3


@pytest.mark.parametrize("weights", ["sqrt", "uniform"])
def test_weights_change_how_often_conditions_are_visited(
    store: Store, plan: Plan, weights: str
) -> None:
    made = table(store, plan, 4, weights=weights)
    epochs = [made.epoch(epoch) for epoch in range(40)]
    assert {len(condition) for condition, _ in epochs} == {made.n_sets}
    n = len(made.conditions)
    seen = np.mean([np.bincount(condition, minlength=n) for condition, _ in epochs], axis=0)
    size = made.conditions["n_cells"].to_numpy(dtype=float)
    share = np.sqrt(size) if weights == "sqrt" else np.ones(n)
    expected = share / share.sum() * made.n_sets
    # Systematic sampling: each epoch is within one set of what is expected.
    counts = [np.bincount(condition, minlength=n) for condition, _ in epochs]
    assert max(np.abs(c - expected).max() for c in counts) <= 1.0
    np.testing.assert_allclose(seen, expected, atol=0.35)
    rounds = made.draw(*epochs[0], 0)
    for b, condition in enumerate(rounds.condition):
        line = store.line(made.conditions.at[condition, "line"])
        assert set(rounds.rows[b]) <= set(line.rows(made.conditions.at[condition, "perturbation"]))


def test_controls_are_training_targets_of_every_line_but_do_not_dominate(
    store: Store, plan: Plan
) -> None:
    train = sets.conditions(store, plan, "train")
    assert {line for line, name in train if name == CONTROL} == set(store.lines)
    assert all(name != CONTROL for _, name in sets.conditions(store, plan, "val"))
    assert all(name != CONTROL for _, name in sets.conditions(store, plan, "train", "none"))
    made = table(store, plan)
    condition, _ = made.epoch(0)
    visited = made.conditions.iloc[condition]
    per_line = Counter(visited.loc[visited["perturbation"] == CONTROL, "line"])
    assert set(per_line.values()) == {-(-60 // 8)}
    roles = {(r.line, r.perturbation): r.role for r in plan.table.itertuples()}
    treated = visited[visited["perturbation"] != CONTROL]
    assert {roles[pair] for pair in treated[["line", "perturbation"]].apply(tuple, axis=1)} == {"train"}  # fmt: skip


# ---------------------------------------------------------------------------------------------
# controls


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


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 11, 57, 1000])
def test_shares_are_disjoint_and_complete(n: int) -> None:
    cuts = [share(n, role) for role in ("train", "val", "test")]
    assert cuts[0][0] == 0
    assert cuts[2][1] == n
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cuts))
    assert cuts[2][1] > cuts[2][0], "test keeps at least one"


def test_conditions_and_labels_that_cannot_be_served(store: Store, plan: Plan) -> None:
    wrong = plan.table.copy()
    wrong.loc[wrong.index[0], ["perturbation", "role"]] = ["Drug01_6", "train"]
    with pytest.raises(ResultsError, match="no perturbation 'Drug01_6'") as caught:
        table(store, Plan(wrong))
    assert "did you mean 'Drug01_5'?" in str(caught.value)
    with pytest.raises(ResultsError, match=r"1 perturbations have no id.*'Drug02_5'"):
        sets.check_vocabulary(["Drug02_5", "Drug02_0.5"], [CONTROL, "Drug02_0.5"])


# ---------------------------------------------------------------------------------------------
# numbers


def reference_bits(key: int, counter: int) -> int:
    """SplitMix64 by its definition, in Python's integers."""
    mask = (1 << 64) - 1
    z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_bits_are_splitmix64() -> None:
    # The first outputs of the reference implementation for seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [reference_bits(1234567, i) for i in range(3)] == published
    for key in (0, 1234567, (1 << 64) - 1):
        for counter in (0, 1, 77):
            assert int(draws.bits(np.uint64(key), counter)) == reference_bits(key, counter)


def test_shuffles_are_uniform_permutations() -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    for i in range(4800):
        counts[tuple(draws.shuffled(draws.name_key("shuffle", i), 4).tolist())] += 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.slow
def test_another_process_draws_the_same(tiny_store: Path, tiny_plan: Path) -> None:
    """Two fresh interpreters with other hash seeds: each compiles and imports, about 5 s."""
    code = (
        "import json, sys, numpy as np\n"
        "from statetx.data.plan import read_plan\n"
        "from statetx.data.sets import SetTable\n"
        "from statetx.data.store import open_store\n"
        "made = SetTable(open_store(sys.argv[1]), read_plan(sys.argv[2]), 'train', 8, seed=3)\n"
        "drawn = made.draw(*made.epoch(2), 2)\n"
        "print(json.dumps([drawn.rows.tolist(), drawn.controls.tolist()]))\n"
    )
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code, str(tiny_store), str(tiny_plan)],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
