"""Sets over the true design of Tahoe-100M, from its counts alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from design_store import CONTROL, DesignStore

from statetx.config import Sets
from statetx.data.sets.set_table import SetTable
from statetx.data.store.plan import Plan

SIZE = 256


@pytest.fixture(scope="module")
def store(shared: Path) -> DesignStore:
    return DesignStore(shared / "data/tahoe_design/obs_cell_grid.parquet")


@pytest.fixture(scope="module")
def plan(store: DesignStore) -> Plan:
    return store.plan()


def test_the_design_is_the_published_one(store: DesignStore, plan: Plan) -> None:
    conditions = store.conditions
    assert conditions["n_cells"].sum() == 100_648_790
    assert conditions["line"].nunique() == 50
    assert conditions["batch"].nunique() == 14
    assert conditions["perturbation"].nunique() == 1_138
    assert (plan.table["role"] == "test").sum() > 2_000


def test_an_epoch_over_a_hundred_million_cells(store: DesignStore, plan: Plan) -> None:
    made = SetTable(store, plan, "train", SIZE)  # type: ignore[arg-type]
    trained = made.conditions
    treated = trained[trained["perturbation"] != CONTROL]
    roles = plan.table[plan.table["role"] == "train"]
    assert len(treated) == len(roles)
    assert made.n_sets == int(np.ceil(trained["n_cells"] / SIZE).sum()) > 390_000
    condition, window = made.epoch(3)
    assert len(condition) == made.n_sets
    counts = np.bincount(condition, minlength=len(trained))
    assert np.array_equal(counts, trained["windows"])
    assert (window < trained["windows"].to_numpy()[condition]).all()
    # Every plate has its own DMSO in nearly every line: the report says how nearly.
    share = {row["level"]: row["share"] for row in made.coverage()}
    assert share["line and batch"] > 0.99
    assert sum(share.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("within_batch", [False, True])
def test_sets_lie_where_their_conditions_do(
    store: DesignStore, plan: Plan, within_batch: bool
) -> None:
    made = SetTable(store, plan, "train", SIZE, Sets(within_batch=within_batch))  # type: ignore[arg-type]
    condition, window = made.epoch(0)
    drawn = made.draw(condition[:300], window[:300], 0)
    blocks = {
        line: part.sort_values("row_start") for line, part in store.conditions.groupby("line")
    }
    for b, c in enumerate(drawn.condition):
        line, label, batch = made.conditions.loc[c, ["line", "perturbation", "batch"]]
        part = blocks[line]
        starts = part["row_start"].to_numpy()

        def block(rows: np.ndarray) -> np.ndarray:
            return np.searchsorted(starts, rows, side="right") - 1  # noqa: B023

        own, control = block(drawn.rows[b]), block(drawn.controls[b])
        assert set(part["perturbation"].to_numpy()[own]) == {label}
        assert set(part["perturbation"].to_numpy()[control]) == {CONTROL}
        plates = part["batch"].to_numpy()
        if within_batch:
            assert set(plates[own]) == {batch}
        has = set(plates[part["is_control"]])
        matched = np.isin(plates[own], list(has))
        assert np.array_equal(plates[own][matched], plates[control][matched])
