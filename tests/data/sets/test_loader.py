"""Batches: the cells they say, the same for any threads and ranks, from any place the store lies."""

from __future__ import annotations

import gc
import shutil
import threading
from collections import Counter
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from statetx.config import Dataset, Sets
from statetx.core.errors import ConfigError, ResultsError
from statetx.data.pack.pack import pack
from statetx.data.sets import device
from statetx.data.sets.buffers import Buffers
from statetx.data.sets.loader import SetBatch, SetLoader
from statetx.data.store.plan import Plan, read_plan
from statetx.data.store.store import Store, open_store

CONTROL = "DMSO_TF_00"


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> Store:
    return open_store(tiny_store)


@pytest.fixture(scope="module")
def counts_store(
    tiny_source: Path, tiny_settings: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same cells, modelled as log1p of X, all genes."""
    out = tmp_path_factory.mktemp("counts") / "pack"
    settings = tiny_settings.model_copy(update={"expression_key": None})
    pack(sorted(tiny_source.glob("*.h5ad")), settings, "tiny", out)
    return out


@pytest.fixture(scope="module")
def plan(tiny_plan: Path) -> Plan:
    return read_plan(tiny_plan)


def vocabulary(plan: Plan) -> list[str]:
    return [CONTROL, *plan.perturbations("train")]


def loader(store: Store, plan: Plan, role: str = "train", **settings: object) -> SetLoader:
    settings = {"cell_set_len": 8, "batch_size": 6, **settings}
    return SetLoader(store, plan, role, vocabulary(plan), **settings)  # type: ignore[arg-type]


def same(a: list[SetBatch], b: list[SetBatch]) -> bool:
    names = ("control", "target", "perturbation", "line", "rows", "control_rows")
    return len(a) == len(b) and all(
        np.array_equal(getattr(x, n), getattr(y, n))
        for x, y in zip(a, b, strict=True)
        for n in names
    )


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
        assert batch.target.dtype == batch.control.dtype == torch.float32
        assert batch.perturbation.dtype == batch.line.dtype == torch.int64
        assert batch.mask is None
        for b in range(len(batch.line)):
            n_sets += 1
            condition = (chosen.lines[batch.line[b]], names[batch.perturbation[b]])
            for target, control in zip(batch.target[b], batch.control[b], strict=True):
                line, perturbation, plate = cells[target.numpy().tobytes()]
                assert (line, perturbation) == condition
                assert cells[control.numpy().tobytes()] == (line, CONTROL, plate)
    assert n_sets == chosen.n_sets


def test_an_epoch_is_a_function_of_seed_and_number(store: Store, plan: Plan) -> None:
    ahead = loader(store, plan)
    first = list(ahead.epoch(1))
    assert len(first) == len(ahead)
    assert same(first, list(ahead.epoch(1))), "asked twice"
    condition, window = ahead.table.epoch(1)
    chunks = [slice(at, at + 6) for at in range(0, len(condition), 6)]
    assert same(first, [ahead.batch(condition[c], window[c], 1) for c in chunks]), "no threads"
    for threads in (1, 3):
        assert same(first, list(loader(store, plan, threads=threads).epoch(1)))
    assert not same(first, list(ahead.epoch(2)))
    assert not same(first, list(loader(store, plan, seed=1).epoch(1)))


@pytest.mark.parametrize("step", [1, 3, 7])
def test_resuming_at_any_step_continues_the_sequence(store: Store, plan: Plan, step: int) -> None:
    whole = list(loader(store, plan).epoch(1))
    assert same(whole[step:], list(loader(store, plan).epoch(1, first_batch=step)))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_sets_of_one_process(store: Store, plan: Plan, world: int) -> None:
    def ids(batches: list[SetBatch]) -> list[tuple[int, ...]]:
        return [
            (int(b.line[i]), *b.rows[i].tolist(), *b.control_rows[i].tolist())
            for b in batches
            for i in range(len(b.line))
        ]

    alone = ids(list(loader(store, plan).epoch(1)))
    ranks = [loader(store, plan, rank=rank, world=world, batch_size=5) for rank in range(world)]
    parts = [ids(list(one.epoch(1))) for one in ranks]
    assert {len(part) for part in parts} == {-(-len(alone) // world)}
    assert {len(one) for one in ranks} == {len(list(ranks[0].epoch(1)))}
    together = [part[i] for i in range(len(parts[0])) for part in parts]
    assert together[: len(alone)] == alone
    assert together[len(alone) :] == alone[: len(together) - len(alone)], "the first serve twice"


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


def test_masked_batches_say_which_rows_are_cells(store: Store, plan: Plan) -> None:
    cells: Counter[tuple[int, int]] = Counter()
    for batch in loader(store, plan, sets=Sets(short="mask")).epoch(0):
        assert batch.mask is not None
        assert batch.mask.dtype == torch.bool
        for b in range(len(batch.line)):
            own = batch.rows[b][batch.mask[b].numpy()]
            cells.update((int(batch.line[b]), row) for row in own.tolist())
    assert set(cells.values()) == {1}


def test_an_embedding_with_the_expression_of_the_targets(counts_store: Path, plan: Plan) -> None:
    store = open_store(counts_store)
    chosen = loader(store, plan, embed_key="X_embedding", with_expression=True)
    assert chosen.width == 64
    for batch in chosen.epoch(0):
        for b in range(len(batch.line)):
            line = store.line(chosen.lines[batch.line[b]])
            assert np.array_equal(batch.target[b], line.embedding("X_embedding", batch.rows[b]))
            assert np.array_equal(batch.control[b], line.embedding("X_embedding", batch.control_rows[b]))  # fmt: skip
            assert batch.expression is not None
            assert np.array_equal(batch.expression[b], line.expression(batch.rows[b]))
    plain = next(iter(loader(store, plan, embed_key="X_embedding").epoch(0)))
    assert plain.expression is None


def test_chosen_genes_are_columns_of_all(counts_store: Path, plan: Plan, tmp_path: Path) -> None:
    whole = open_store(counts_store)
    genes = [whole.genes[i] for i in (77, 3, 100, 8)]
    (tmp_path / "4.txt").write_text("\n".join(genes) + "\n")
    few = open_store(counts_store, tmp_path / "4.txt")
    assert few.genes == genes
    a, b = loader(whole, plan), loader(few, plan)
    assert b.width == 4
    for all_genes, chosen in zip(a.epoch(0), b.epoch(0), strict=True):
        assert torch.equal(all_genes.target[..., [77, 3, 100, 8]], chosen.target)
        assert torch.equal(all_genes.control[..., [77, 3, 100, 8]], chosen.control)


@pytest.mark.parametrize("bad", ["Gene0001\nGene9999\n", "Gene0001\nGene0001\n", ""])
def test_genes_that_cannot_be_chosen(counts_store: Path, tmp_path: Path, bad: str) -> None:
    (tmp_path / "n.txt").write_text(bad)
    with pytest.raises(ResultsError, match=r"not in the store|empty or names a gene twice"):
        open_store(counts_store, tmp_path / "n.txt")
    with pytest.raises(ResultsError, match="cannot read the chosen genes"):
        open_store(counts_store, tmp_path / "none.txt")


def test_a_matrix_chosen_outside_has_no_genes_to_choose(tiny_store: Path, tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("Gene0001\n")
    with pytest.raises(ResultsError, match="chosen outside"):
        open_store(tiny_store, tmp_path / "n.txt")


# ---------------------------------------------------------------------------------------------
# memory


def test_memory_is_used_again_only_when_nobody_holds_it(store: Store, plan: Plan) -> None:
    chosen = loader(store, plan, threads=1)
    kept, copies = [], []
    for batch in chosen.epoch(0):
        kept.append(batch.target[0, 0])  # a view: its batch is gone
        copies.append(batch.target[0, 0].clone())
        del batch
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    buffers = Buffers()
    first = buffers.empty((3, 4))
    address = first.ctypes.data
    view = torch.from_numpy(first)[1:]
    del first
    gc.collect()
    assert buffers.empty((3, 4)).ctypes.data != address, "a view is still held"
    del view
    gc.collect()
    assert address in {buffers.empty((3, 4)).ctypes.data for _ in range(3)}


def test_leaving_early_stops_the_threads(store: Store, plan: Plan) -> None:
    batches = loader(store, plan).epoch(0)
    next(batches)
    assert [t for t in threading.enumerate() if t.name.startswith("statetx-loader")]
    batches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("statetx-loader")]


def test_an_error_in_a_thread_reaches_the_reader(
    store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = loader(store, plan)

    def broken(*_: object) -> SetBatch:
        raise ResultsError("the disk went away")

    monkeypatch.setattr(chosen, "batch", broken)
    with pytest.raises(ResultsError, match="the disk went away"):
        list(chosen.epoch(0))


def test_from_memory_as_from_disk(counts_store: Path, plan: Plan) -> None:
    disk = list(loader(open_store(counts_store), plan).epoch(0))
    ram = open_store(counts_store)
    assert same(disk, list(loader(ram, plan, resident="ram").epoch(0)))
    assert not isinstance(ram.line("L01").csr[1].base, np.memmap)


# ---------------------------------------------------------------------------------------------
# the way into a GPU, which is torch and runs anywhere


@pytest.mark.parametrize("how", ["counts", "log1p", "chosen"])
def test_packed_rows_become_the_same_expression(
    tiny_source: Path, tiny_settings: Dataset, counts_store: Path, tmp_path: Path, how: str
) -> None:
    genes = None
    if how == "chosen":
        genes = tmp_path / "n.txt"
        genes.write_text("Gene0044\nGene0002\nGene0119\n")
    home = counts_store
    if how == "log1p":  # L02 holds values behind which there are no counts
        home = tmp_path / "pack"
        for name in ("L01", "L02"):
            adata = anndata.read_h5ad(tiny_source / f"{name}.h5ad")
            total = np.asarray(adata.X.sum(axis=1))
            adata.X = adata.X.multiply(1e4 / total).tocsr().log1p().astype(np.float32)
            if name == "L02":
                adata.X.data *= np.random.default_rng(0).uniform(0.9, 1.0, adata.X.nnz)
            adata.write_h5ad(tmp_path / f"{name}.h5ad")
        changes = {"scale": "log1p", "expression_key": None}
        settings = tiny_settings.model_copy(update=changes)
        pack(sorted(tmp_path.glob("L0*.h5ad")), settings, "tiny", home)
    store = open_store(home, genes)
    rng = np.random.default_rng(1)
    parts = [(store.line(name), rng.integers(0, 90, 40)) for name in ("L02", "L01", "L02")]
    expected = np.concatenate([line.expression(rows) for line, rows in parts])
    width = len(store.genes)
    cpu = torch.device("cpu")
    packed = device.pack_rows(parts, Buffers(), cpu)
    np.testing.assert_allclose(packed.dense(width, torch.float32), expected, rtol=2e-6, atol=1e-6)
    lines = [store.line(name) for name in ("L01", "L02")]
    resident = device.Resident(lines, cpu, "X_embedding")
    assert resident.packed is not None
    wanted = resident.rows(parts, cpu)
    found = resident.packed.rows(wanted).dense(width, torch.float32)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
    embedded = np.concatenate([line.embedding("X_embedding", rows) for line, rows in parts])
    assert np.array_equal(resident.dense[wanted].float(), embedded)
    half = packed.dense(width, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.float(), expected, rtol=1e-2, atol=1e-6)


def test_many_genes_and_large_counts_keep_their_bits(tmp_path: Path) -> None:
    """Columns beyond 32,767 and counts beyond 32,767 are negative as int16."""
    import pandas as pd
    from scipy import sparse

    counts = np.zeros((4, 40_000), dtype=np.float32)
    counts[0, 39_999], counts[1, 35_000], counts[2, 0], counts[3, 1] = 60_000, 3, 40_000, 1
    obs = pd.DataFrame(
        {"drug_dose": ["A_1", "A_1", CONTROL, CONTROL], "cell_line": "L", "batch": "p"},
        index=list("abcd"),
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(40_000)])
    anndata.AnnData(sparse.csr_matrix(counts), obs, var).write_h5ad(tmp_path / "a.h5ad")
    settings = Dataset(files=["a"], control_pert=CONTROL, scale="counts", target_sum=1.0)
    pack([tmp_path / "a.h5ad"], settings, "wide", tmp_path / "pack")
    line = open_store(tmp_path / "pack").line("L")
    rows = np.arange(4)
    packed = device.pack_rows([(line, rows)], Buffers(), torch.device("cpu"))
    np.testing.assert_allclose(packed.dense(40_000, torch.float32), line.expression(rows))
    assert line.counts(rows).max() == 60_000


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("key", [None, "X_embedding"])
@pytest.mark.parametrize("matrix", [False, True])
def test_the_way_of_a_gpu_gives_the_batches_of_the_cpu(
    counts_store: Path, tiny_store: Path, plan: Plan, resident: bool, key: str | None, matrix: bool
) -> None:
    """All of it but streams and page-locked memory, in a store with and without ``expression_key``."""
    store = open_store(tiny_store if matrix else counts_store)
    chosen = loader(store, plan, embed_key=key, with_expression=key is not None)
    condition, window = chosen.table.epoch(0)
    drawn = chosen.table.draw(condition[:5], window[:5], 0)
    if resident:
        lines = list(chosen._opened.values())
        wanted = key or store.manifest["expression_key"]
        chosen._resident = device.Resident(lines, torch.device("cpu"), wanted, not matrix)
    for a, b in zip(chosen._on_device(drawn), chosen._on_cpu(drawn), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("key", [None, "X_embedding"])
def test_memory_is_held_until_the_device_has_it(
    counts_store: Path, plan: Plan, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy to a GPU runs on after the call: what it reads must not be lent again before."""
    chosen = loader(open_store(counts_store), plan, embed_key=key, with_expression=key is not None)
    condition, window = chosen.table.epoch(0)
    drawn = chosen.table.draw(condition[:5], window[:5], 0)
    free: list[int] = []
    flying: list[int] = []

    def send(array: np.ndarray, _: torch.device) -> torch.Tensor:
        flying.append(1)
        kind = np.int16 if array.dtype == np.uint16 else array.dtype
        return torch.from_numpy(array.view(kind).copy())

    def settle(_: torch.device) -> None:
        free.append(sum(map(len, chosen._buffers._shelves.values())) if flying else 0)
        flying.clear()

    monkeypatch.setattr(device, "send", send)
    monkeypatch.setattr(device, "settle", settle)
    held = chosen._buffers.empty((1,))  # none was lent before
    assert not sum(map(len, chosen._buffers._shelves.values()))
    chosen._on_device(drawn)
    assert free[0] == 0
    assert not flying
    del held


def test_a_gpu_that_is_not_there(counts_store: Path, plan: Plan) -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        loader(open_store(counts_store), plan, resident="gpu")
    assert same(
        list(loader(open_store(counts_store), plan, resident="auto").epoch(0)),
        list(loader(open_store(counts_store), plan).epoch(0)),
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", ["disk", "gpu", "auto"])
def test_batches_on_a_gpu_are_those_of_the_cpu(
    counts_store: Path, plan: Plan, resident: str
) -> None:
    store = open_store(counts_store)
    for key in (None, "X_embedding"):
        there = loader(store, plan, device="cuda", resident=resident, embed_key=key, with_expression=True)  # fmt: skip
        here = loader(store, plan, embed_key=key, with_expression=True)
        for a, b in zip(there.epoch(1), here.epoch(1), strict=True):
            assert a.target.is_cuda
            torch.testing.assert_close(a.target.cpu(), b.target, rtol=2e-6, atol=1e-6)
            torch.testing.assert_close(a.control.cpu(), b.control, rtol=2e-6, atol=1e-6)
            if key is not None:
                assert a.expression is not None
                assert b.expression is not None
                torch.testing.assert_close(a.expression.cpu(), b.expression, rtol=2e-6, atol=1e-6)


def test_roles_that_cannot_be_served(store: Store, plan: Plan) -> None:
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
