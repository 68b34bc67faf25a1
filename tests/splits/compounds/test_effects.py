"""Strata by strength of effect: planted strengths come out in order, other lines are not read."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from small_cells import CONTROL, packed, settings

from statetx.config import Dataset, Simulate
from statetx.core.errors import ResultsError
from statetx.data.pack.pack import pack
from statetx.data.simulate import drug_names, line_names, plant, simulate
from statetx.data.store.line_store import LineStore
from statetx.data.store.store import Store, open_store
from statetx.splits.compounds import effects
from statetx.splits.compounds.effects import effect_strata

GENES, SHIFTED = 60, 20
RANK = {"unknown": 0, "weak": 1, "middle": 2, "strong": 3}
Cells = dict[str, tuple[float, int]]
"""Fold change of some genes, and number of cells, by label."""


def store_of(home: Path, lines: dict[str, Cells]) -> Store:
    """Pack cells of which every drug changes 20 genes of 60 by one factor; its sign alternates."""
    rng = np.random.default_rng(0)
    counts, rows = [], []
    for line, cells in lines.items():
        for label, (factor, n) in {**cells, CONTROL: (1.0, 200)}.items():
            mean = np.full(GENES, 5.0)
            mean[rng.choice(GENES, SHIFTED, replace=False)] *= np.tile([factor, 1 / factor], 10)
            counts.append(rng.poisson(mean, (n, GENES)).astype(np.float32))
            rows += [(label, line, f"p{i % 2}") for i in range(n)]
    obs = pd.DataFrame(rows, columns=["drug_dose", "cell_line", "batch"])
    obs.index = obs.index.map("c{}".format)
    var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    adata = anndata.AnnData(sparse.csr_matrix(np.vstack(counts)), obs, var)
    return open_store(packed(home, settings(), adata))


# Names do not follow strength. The drugs without effect have few cells: without a correction for
# noise they would stand above those of a small effect.
NINE: Cells = {
    **{f"{name}_1": (4.0, 40) for name in ("Bo", "Ed", "Ida")},
    **{f"{name}_1": (1.45, 60) for name in ("Al", "Flo", "Gus")},
    **{f"{name}_1": (1.0, 8) for name in ("Cy", "Di", "Hal")},
}
STRENGTH = {
    **dict.fromkeys(("Bo", "Ed", "Ida"), "strong"),
    **dict.fromkeys(("Al", "Flo", "Gus"), "middle"),
    **dict.fromkeys(("Cy", "Di", "Hal"), "weak"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two lines in which the drugs act alike, a third in which they act the other way round."""
    backwards = {label: (5.0 / factor, n) for label, (factor, n) in NINE.items()}
    lines = {"L1": NINE, "L2": NINE, "L3": {**backwards, "Only_1": (2.0, 20)}}
    return store_of(tmp_path_factory.mktemp("effects"), lines)


def test_planted_strengths_come_out_in_order(store: Store) -> None:
    assert effect_strata(store, ["L1", "L2"]) == {**STRENGTH, "Only": "unknown"}
    assert effect_strata(store, ("L1",)) == effect_strata(store, {"L2"})
    there = effect_strata(store, ["L3"])
    assert {name for name, found in there.items() if found == "weak"} >= {"Bo", "Ed", "Ida"}


def test_the_order_of_lines_does_not_matter(store: Store) -> None:
    found = effect_strata(store, ["L3", "L1"])
    assert found == effect_strata(store, ["L1", "L3"])
    assert set(found.values()) == {"weak", "middle", "strong"}


def test_other_lines_are_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, opened = open_store(store.directory), []
    read = Store.line

    def line(self: Store, name: str) -> LineStore:
        opened.append(name)
        return read(self, name)

    monkeypatch.setattr(Store, "line", line)
    effect_strata(fresh, ["L2", "L1"])
    assert set(opened) == {"L1", "L2"}
    assert set(fresh._lines) == {"L1", "L2"}


def test_drugs_without_cells_in_the_lines_are_unknown(store: Store) -> None:
    assert effect_strata(store, ["L1"])["Only"] == "unknown"
    assert set(effect_strata(store, []).values()) == {"unknown"}
    assert CONTROL not in effect_strata(store, ["L1"])


def test_a_line_that_is_not_there(store: Store) -> None:
    with pytest.raises(ResultsError, match="L9"):
        effect_strata(store, ["L9"])


def test_a_drug_has_the_mean_over_its_doses(tmp_path: Path) -> None:
    cells: Cells = {
        "Steep_1": (1.0, 40),
        "Steep_10": (4.0, 40),
        "Flat_1": (3.0, 40),
        "Flat_10": (3.0, 40),
        "None_1": (1.0, 40),
        "None_10": (1.0, 40),
    }
    found = effect_strata(store_of(tmp_path, {"L1": cells}), ["L1"])
    assert found == {"None": "weak", "Steep": "middle", "Flat": "strong"}


def test_drugs_of_single_cells_do_not_look_strong(tmp_path: Path) -> None:
    """A lone cell has no variance of its own, and its distance from the controls is all noise."""
    none, some, much = ([f"{name}{i}" for i in range(3)] for name in ("None", "Some", "Much"))
    cells: Cells = {
        **{f"{name}_1": (1.0, 1) for name in none},
        **{f"{name}_1": (2.0, 60) for name in some},
        **{f"{name}_1": (4.0, 60) for name in much},
    }
    found = effect_strata(store_of(tmp_path, {"L1": cells, "L2": cells}), ["L1", "L2"])
    rank = {name: RANK[stratum] for name, stratum in found.items()}
    assert max(rank[name] for name in none) <= min(rank[name] for name in some)
    assert max(rank[name] for name in some) <= min(rank[name] for name in much)


def test_no_more_cells_are_read_than_are_needed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "CELLS", 16)
    sizes, batches = [], []
    read = LineStore.expression

    def expression(self: LineStore, rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        batches.append(len(set(self.batches(rows))))
        return read(self, rows)

    monkeypatch.setattr(LineStore, "expression", expression)
    found = effect_strata(store, ["L1"])
    assert max(sizes) <= 16
    assert set(batches) == {2}
    assert [found[name] for name in ("Bo", "Ed", "Ida")] == ["strong"] * 3


def test_simulated_drugs_without_effect_are_weak(tmp_path: Path, tiny_settings: Dataset) -> None:
    more = {"n_lines": 3, "n_drugs": 20, "cells_per_condition": 60, "controls_per_line": 200}
    made = Simulate.model_validate({**tiny_settings.simulate.model_dump(), **more})
    simulate(made, tmp_path / "source")
    files = [tmp_path / "source" / f"{name}.h5ad" for name in line_names(made)]
    pack(files, tiny_settings.model_copy(update={"simulate": made}), "made", tmp_path / "pack")
    store = open_store(tmp_path / "pack")
    found = pd.Series(effect_strata(store, store.lines))
    assert found.value_counts().to_dict() == {"weak": 7, "middle": 7, "strong": 6}
    planted = pd.Series((plant(made).effect ** 2).sum(axis=(1, 2)), drug_names(made))
    assert set(found[planted < 1]) == {"weak"}
    assert (planted < 1).sum() == 4
    assert planted.corr(found.map(RANK), method="spearman") > 0.7
