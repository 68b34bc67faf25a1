"""Fixtures that several rooms use: simulated source files, a packed store, a plan, real data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before numpy and torch are loaded, and for every process that a test starts. Two workers on two
# cores with two threads each wait for each other: 80 steps of a network of a few thousand weights
# took 22 s instead of 1.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import pytest

from statetx.config import Dataset, Simulate
from statetx.data.pack.pack import pack
from statetx.data.simulate import line_names, simulate
from statetx.data.store.layout import file_name
from statetx.data.store.plan import write_plan
from statetx.data.store.store import open_store

TINY = Simulate(
    n_lines=4,
    n_drugs=6,
    doses=[0.5, 5.0],
    cells_per_condition=20,
    controls_per_line=60,
    n_genes=120,
    n_hvg=60,
    seed=7,
)
"""4 lines x 6 drugs x 2 doses on 2 plates, 60 controls per line."""

TINY_DATASET = Dataset(
    files="simulate",
    simulate=TINY,
    control_pert="DMSO_TF_00",
    scale="counts",
    expression_key="X_hvg",
    embed_keys=["X_embedding"],
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the workflow, whose files take minutes each.

    Alone at the end (where xdist would put files of few tests) one of them leaves a core idle.
    """
    items.sort(key=lambda item: "workflow" not in item.path.parts)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give torch its one thread again: numba's OpenMP pool, once used, sets two for the process."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def tiny_settings() -> Dataset:
    """The data-set section that describes `tiny_source`."""
    return TINY_DATASET


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with one simulated h5ad per line and truth.parquet."""
    out = tmp_path_factory.mktemp("source")
    simulate(TINY, out)
    return out


@pytest.fixture(scope="session")
def tiny_store(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the packed store of `tiny_source`; open it with `open_store`."""
    out = tmp_path_factory.mktemp("pack")
    files = [tiny_source / f"{file_name(line)}.h5ad" for line in line_names(TINY)]
    pack(files, TINY_DATASET, "tiny", out)
    return out


@pytest.fixture(scope="session")
def tiny_plan(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plan.parquet: Drug01 x L01 tests, Drug02 x L02 validates (all doses), the rest trains."""
    table = open_store(tiny_store).conditions
    table = table.loc[~table["is_control"], ["line", "perturbation", "drug"]].drop_duplicates()
    roles = {("L01", "Drug01"): "test", ("L02", "Drug02"): "val"}
    pairs = zip(table["line"], table["drug"], strict=True)
    table["role"] = [roles.get(pair, "train") for pair in pairs]
    table["reason"] = "fixture"
    path = tmp_path_factory.mktemp("split") / "plan.parquet"
    write_plan(pd.DataFrame(table), path)
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory with real data and fixtures beside the repository; skips where it is absent."""
    found = Path(__file__).resolve().parents[1].parent / "shared"
    if not (found / "data").is_dir():
        pytest.skip(f"no real data: {found} does not exist")
    return found
