"""Sets of cells: who is in them, how often, and that nothing else decides it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from set_tables import CONTROL, by_condition, drawn_epoch, table

from statetx.data.store.plan import Plan, read_plan
from statetx.data.store.roles import conditions
from statetx.data.store.store import Store, open_store


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> Store:
    return open_store(tiny_store)


@pytest.fixture(scope="module")
def plan(tiny_plan: Path) -> Plan:
    return read_plan(tiny_plan)


@pytest.mark.parametrize("size", [4, 7, 20, 33, 200])
@pytest.mark.parametrize("mix", [1, 2, 3, 1000])
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_cell_is_visited_and_evenly(
    store: Store, plan: Plan, size: int, mix: int, epoch: int
) -> None:
    made = table(store, plan, size, mix_windows=mix)
    visits = by_condition(made, drawn_epoch(made, epoch))
    pairs = conditions(store, plan, "train")
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
    sizes = pd.Series({pair: len(store.line(pair[0]).rows(pair[1])) for pair in conditions(store, plan, "train")})  # fmt: skip
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
    train = conditions(store, plan, "train")
    assert {line for line, name in train if name == CONTROL} == set(store.lines)
    assert all(name != CONTROL for _, name in conditions(store, plan, "val"))
    assert all(name != CONTROL for _, name in conditions(store, plan, "train", "none"))
    made = table(store, plan)
    condition, _ = made.epoch(0)
    visited = made.conditions.iloc[condition]
    per_line = Counter(visited.loc[visited["perturbation"] == CONTROL, "line"])
    assert set(per_line.values()) == {-(-60 // 8)}
    roles = {(r.line, r.perturbation): r.role for r in plan.table.itertuples()}
    treated = visited[visited["perturbation"] != CONTROL]
    assert {roles[pair] for pair in treated[["line", "perturbation"]].apply(tuple, axis=1)} == {"train"}  # fmt: skip
