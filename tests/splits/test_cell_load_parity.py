"""Which cells a split gives to which role, in which sets, from which controls: cell-load's answer.

One small data set, as h5ads for cell-load and packed for us; random TOMLs that are legitimate in
both; then cell for cell, by barcode. Where the two differ on purpose, the difference is asserted:

- Controls as targets: cell-load has those of every line of a role in all roles. We have them in
  train only, for a validation loss that is about perturbed cells; there, both have those of all
  lines of the split, zero-shot lines included.
- No val conditions: cell-load validates on the test set. We do not validate.
- A line in several files: cell-load treats the parts apart, in sets and in controls. We pack the
  line together.
- A set that is too short: cell-load repeats its cells, we take others of the condition or, as here,
  mask. Sizes are those before.

Not compared: a line of nothing but controls. cell-load trains on it; our plan lists conditions and
does not know it.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import tomli_w
from scipy import sparse

from statetx.config import GENERATORS, Dataset, Sets, TomlSplit
from statetx.data.pack.pack import pack
from statetx.data.sets.set_table import SetTable
from statetx.data.store.plan import ROLES, Plan, read_plan
from statetx.data.store.roles import control_runs
from statetx.data.store.store import Store, open_store
from statetx.splits.split import split

pytest.importorskip("cell_load", reason="needs cell-load (extra `parity`)")
pytestmark = pytest.mark.parity

EPOCHS = 240
"""Drawn to see which controls a cell may get: the chance that one of at most ten, drawn evenly, does
not come up is 1e-11, and some 4e5 pairs of cell and control are looked at."""

CONTROL = "DMSO_TF_00"
BATCHES = ("p1", "p2")
LABELS = (CONTROL, "TP53", "Alpha_0.5", "Beta 2_5uM", "Gamma_0.05", "KRAS+MYC", "Eta/x_1")
# Of every label, cells in p1 and p2: conditions of one cell, of full sets, of one batch alone, and
# some that a line does not have; batches with a single control and with none.
CELLS = {
    line: {label: n for label, n in zip(LABELS, counts, strict=True) if sum(n)}
    for line, counts in {
        "A549": [(5, 4), (1, 0), (8, 0), (8, 8), (5, 4), (12, 17), (3, 4)],
        "HOP 62": [(6, 4), (9, 2), (2, 3), (0, 25), (16, 1), (0, 0), (0, 1)],
        "Hep G2/C3A": [(7, 0), (4, 4), (7, 9), (0, 0), (6, 5), (1, 1), (15, 15)],
        "v1.2": [(1, 8), (13, 0), (3, 3), (24, 0), (2, 19), (8, 1), (0, 7)],
    }.items()
}
FILES = {"A549": "a", "Hep G2/C3A": "a", "HOP 62": "b", "v1.2": "c"}

# ---------------------------------------------------------------------------------------------
# data


@dataclass(frozen=True)
class Data:
    """The same cells for both tools.

    Attributes
    ----------
    obs
        One row per cell, index: barcode; ``cell_line, drug_dose, batch``, and ``half``: its file in
        `halved`.
    whole, halved
        Directories of h5ads: every line in one file, as in `FILES`; every line in two files.
    store
        Packed from `whole`.
    """

    obs: pd.DataFrame
    whole: Path
    halved: Path
    store: Store


def write_files(obs: pd.DataFrame, file: pd.Series, directory: Path) -> list[Path]:
    """Write one h5ad per name in `file`: CSR counts, the first of them tells the cell; X_hvg."""
    rng = np.random.default_rng(0)
    directory.mkdir()
    paths = []
    for name, part in obs.groupby(file, sort=True):
        counts = rng.poisson(1.0, (len(part), 12)).astype(np.float32)
        counts[:, 0] = [int(barcode[4:8]) + 1 for barcode in part.index]
        columns = part[["cell_line", "drug_dose", "batch"]].astype("category")
        adata = anndata.AnnData(sparse.csr_matrix(counts), obs=columns)
        adata.obsm["X_hvg"] = np.log1p(counts[:, :5])
        paths.append(directory / f"{name}.h5ad")
        adata.write_h5ad(paths[-1])
    return paths


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    home = tmp_path_factory.mktemp("parity")
    rows = [
        (line, label, batch, f"half{i % 2}")
        for line, conditions in CELLS.items()
        for label, counts in conditions.items()
        for batch, n in zip(BATCHES, counts, strict=True)
        for i in range(n)
    ]
    obs = pd.DataFrame(rows, columns=["cell_line", "drug_dose", "batch", "half"])
    obs.index = pd.Index([f"cell{i:04d}-1" for i in range(len(obs))])
    obs = obs.sample(frac=1.0, random_state=0)  # no condition lies in one piece
    paths = write_files(obs, obs["cell_line"].map(FILES), home / "whole")
    write_files(obs, obs["half"], home / "halved")
    settings = Dataset(files=["*"], control_pert=CONTROL, scale="counts", embed_keys=["X_hvg"])
    pack(paths, settings, "rep", home / "pack")
    store = open_store(home / "pack")
    for line in map(store.line, store.lines):  # a barcode is that of the cell in its row
        first = line.counts(np.arange(line.n_cells))[:, 0]
        assert line.barcodes.tolist() == [f"cell{n - 1:04.0f}-1" for n in first]
    return Data(obs, home / "whole", home / "halved", store)


# ---------------------------------------------------------------------------------------------
# TOMLs


def roles_of(content: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Return the role of every condition by the rules in words; lines left out are absent."""
    roles = {}
    for line, conditions in CELLS.items():
        name = f"rep.{line}"
        for label in set(conditions) - {CONTROL}:
            if name in content["zeroshot"]:
                roles[line, label] = content["zeroshot"][name]
            elif name in content["fewshot"]:
                lists = content["fewshot"][name].items()
                roles[line, label] = next((role for role, held in lists if label in held), "train")
            elif content["training"]:
                roles[line, label] = "train"
    return roles


def random_toml(seed: int) -> dict[str, Any]:
    """Return the content of a TOML, without ``[datasets]``, with something to train and to test."""
    rng = np.random.default_rng(seed)
    while True:
        zeroshot: dict[str, str] = {}
        fewshot: dict[str, dict[str, list[str]]] = {}
        for line, conditions in CELLS.items():
            kind = rng.choice(["zeroshot", "fewshot", "nowhere"], p=[0.3, 0.4, 0.3])
            if kind == "zeroshot":
                zeroshot[f"rep.{line}"] = str(rng.choice(ROLES, p=[0.2, 0.4, 0.4]))
            elif kind == "fewshot":
                labels = rng.permutation([label for label in conditions if label != CONTROL])
                first, second = np.sort(rng.integers(0, len(labels) + 1, 2))
                lists = {"val": labels[:first].tolist(), "test": labels[first:second].tolist()}
                keep_empty = rng.random() < 0.5
                fewshot[f"rep.{line}"] = {k: v for k, v in lists.items() if v or keep_empty}
        training = {"rep": "train"} if rng.random() < 0.75 else {}
        content = {"training": training, "zeroshot": zeroshot, "fewshot": fewshot}
        if {"train", "test"} <= set(roles_of(content).values()):
            return content


TOMLS = [(random_toml(seed), (8, 3, 30)[seed % 3]) for seed in range(60)]
"""Content, and cells per set."""


def write_toml(content: dict[str, Any], data: Path, path: Path) -> Path:
    path.write_text(tomli_w.dumps({"datasets": {"rep": str(data)}, **content}))
    return path


def our_plan(data: Data, toml: Path, out: Path) -> Plan:
    content = tomllib.loads(toml.read_text())
    settings = TomlSplit(dataset="rep", toml=str(toml))
    split(data.store.directory, settings, None, content, out, one_hot=False)
    return read_plan(out / "plan.parquet")


def test_the_tomls_reach_every_rule() -> None:
    assert len({tomli_w.dumps(content) for content, _ in TOMLS}) >= 50
    seen: Counter[str] = Counter()
    for content, size in TOMLS:
        roles = roles_of(content)
        seen.update(f"zeroshot {role}" for role in set(content["zeroshot"].values()))
        for name, lists in content["fewshot"].items():
            of_line = {role for (line, _), role in roles.items() if f"rep.{line}" == name}
            seen.update({"fewshot " + " ".join(sorted(of_line))})
            seen.update(f"empty {role}" for role, labels in lists.items() if not labels)
        seen["left out"] += len({line for line, _ in roles}) < len(CELLS)
        seen["no val"] += "val" not in roles.values()
        cells = {(role, sum(CELLS[line][label])) for (line, label), role in roles.items()}
        seen.update({f"single cell {role}" for role, n in cells if n == 1})
        seen.update({f"full sets {role}" for role, n in cells if n % size == 0})
    rules = [
        f"{kind} {role}" for kind in ("zeroshot", "single cell", "full sets") for role in ROLES
    ]
    rules += ["fewshot test train val", "fewshot test val", "fewshot train val", "fewshot train"]
    rules += ["fewshot test train", "empty val", "empty test", "left out", "no val"]
    assert {rule: seen[rule] for rule in rules if seen[rule] < 3} == {}


# ---------------------------------------------------------------------------------------------
# what each tool does; cells are numbered by their row in `Data.obs`, found by barcode


@dataclass(frozen=True)
class Seen:
    """What a tool does with one role.

    Attributes
    ----------
    targets
        Cells of the role, as the split knows them (with cell-load, controls too).
    controls
        Control cells that serve the role, per line.
    sets
        Cells of every set of an epoch, before short ones are filled up.
    pools
        bool [cells, cells]: whether a target may be given a control; False for other cells.
    """

    targets: np.ndarray
    controls: dict[str, set[int]]
    sets: list[np.ndarray]
    pools: np.ndarray


class Pool:
    """Stands in for a random generator and keeps what it was asked to choose from."""

    def choice(self, pool: list[int]) -> int:
        self.last = np.asarray(pool)
        return pool[0]


def numbers_of(obs: pd.DataFrame, barcodes: np.ndarray) -> np.ndarray:
    found = obs.index.get_indexer(barcodes)
    assert (found >= 0).all()
    return found


def joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([*parts, np.empty(0, dtype=np.int64)]).astype(np.int64)


def by_cell_load(
    toml: Path, obs: pd.DataFrame, strategy: str, size: int, pert_col: str = "drug_dose"
) -> tuple[dict[str, Seen], Any]:
    """Return what cell-load does with every role, and its data module."""
    from cell_load.data_modules import PerturbationDataModule

    np.random.seed(0)  # noqa: NPY002 (its sampler shuffles with the global generator)
    module = PerturbationDataModule(
        str(toml),
        batch_size=4,
        num_workers=0,
        pert_col=pert_col,
        batch_col="batch",
        cell_type_key="cell_line",
        control_pert=CONTROL,
        embed_key="X_hvg",
        basal_mapping_strategy=strategy,
        cell_sentence_len=size,
        barcode=True,
    )
    module.setup()
    found = {}
    for role in ROLES:
        subsets = getattr(module, f"{role}_datasets")
        parts, controls = list[np.ndarray](), dict[str, set[int]]()
        pools = np.zeros((len(obs), len(obs)), dtype=bool)
        for subset in subsets:
            source = subset.dataset
            own = numbers_of(obs, source.cell_barcodes)
            parts.append(own[subset.indices])
            for i in own[sorted(source.split_control_indices[role])].tolist():
                controls.setdefault(obs["cell_line"].iat[i], set()).add(i)
            source.mapping_strategy.rng = Pool()
            for row in subset.indices.tolist():
                # The same steps as when the cell is fetched.
                served = source._find_split_for_idx(row)
                assert source.mapping_strategy.get_control_index(source, served, row) is not None
                pools[own[row], own[source.mapping_strategy.rng.last]] = True
        targets, sets = joined(parts), list[np.ndarray]()
        if subsets:
            sampler = getattr(module, f"{role}_dataloader")().batch_sampler
            sets = [targets[sentence] for sentence in sampler.sentences]
        found[role] = Seen(targets, controls, sets, pools)
    return found, module


def by_us(data: Data, plan: Plan, strategy: str, size: int) -> dict[str, Seen]:
    """Return what we do with every role; pools are the controls that are really drawn."""
    obs, lines = data.obs, {name: data.store.line(name) for name in data.store.lines}
    own = {name: numbers_of(obs, line.barcodes) for name, line in lines.items()}
    # Conditions of up to two sets are mixed as a whole, larger ones in parts.
    settings = Sets(short="mask", within_batch=strategy == "batch", mix_windows=2)
    levels = (True, False) if strategy == "batch" else (False,)
    found = {}
    for role in ROLES:
        made = SetTable(data.store, plan, role, size, settings, levels)
        controls = {}
        for line in made.conditions["line"].unique():
            runs = control_runs(lines[line], CONTROL, role, plan.controls).values()
            controls[line] = {int(own[line][row]) for run in runs for row in range(*run)}
        sets, pools = list[np.ndarray](), np.zeros((len(obs), len(obs)), dtype=bool)
        for epoch in range(EPOCHS if made.n_sets else 0):
            drawn = made.draw(*made.epoch(epoch), epoch)
            real = np.arange(size) < drawn.length[:, None]
            of = made.conditions["line"].to_numpy()[drawn.condition]
            for line in controls:
                at = real & (of == line)[:, None]
                pools[own[line][drawn.rows[at]], own[line][drawn.controls[at]]] = True
            if epoch == 0:
                parts = zip(of, drawn.rows, drawn.length, strict=True)
                sets = [own[line][rows[:n]] for line, rows, n in parts]
        pairs = plan.conditions(role)
        targets = joined([own[line][lines[line].rows(label)] for line, label in pairs])
        found[role] = Seen(targets, controls, sets, pools)
    return found


# ---------------------------------------------------------------------------------------------
# comparison

Key = tuple[str, ...]
GROUP = {"random": ["cell_line", "drug_dose"], "batch": ["cell_line", "drug_dose", "batch"]}


def keys_of(obs: pd.DataFrame, columns: list[str]) -> list[Key]:
    return list(obs[columns].itertuples(index=False, name=None))


def by_key(numbers: np.ndarray, keys: list[Key]) -> dict[Key, list[int]]:
    """Return the sorted cells of every group."""
    out: dict[Key, list[int]] = {}
    for number in np.sort(numbers).tolist():
        out.setdefault(keys[number], []).append(number)
    return out


def set_sizes(sets: list[np.ndarray], keys: list[Key]) -> dict[Key, Counter[int]]:
    """Return the sizes of the sets of every group; each set is of one group."""
    out: dict[Key, Counter[int]] = {}
    for members in sets:
        (key,) = {keys[number] for number in members.tolist()}
        out.setdefault(key, Counter())[len(members)] += 1
    return out


def perturbed(found: dict[Key, Any]) -> dict[Key, Any]:
    return {key: value for key, value in found.items() if key[1] != CONTROL}


@pytest.mark.parametrize("strategy", ["random", "batch"])
@pytest.mark.parametrize("number", range(len(TOMLS)))
def test_same_cells_in_the_same_sets_from_the_same_controls(
    data: Data, tmp_path: Path, number: int, strategy: str
) -> None:
    content, size = TOMLS[number]
    toml = write_toml(content, data.whole, tmp_path / "split.toml")
    theirs, module = by_cell_load(toml, data.obs, strategy, size)
    plan = our_plan(data, toml, tmp_path / "out")
    ours = by_us(data, plan, strategy, size)
    conditions, groups = keys_of(data.obs, GROUP["random"]), keys_of(data.obs, GROUP[strategy])
    roles = plan.table.set_index(["line", "perturbation"])["role"]
    assert roles.to_dict() == roles_of(content)

    for role in ROLES:
        peer, own = theirs[role], ours[role]
        # The cells of every condition of the role; they are in its sets, once each.
        cells_of = by_key(own.targets, conditions)
        assert cells_of == perturbed(by_key(peer.targets, conditions))
        assert cells_of == perturbed(by_key(joined(own.sets), conditions))
        assert np.array_equal(np.sort(joined(peer.sets)), np.sort(peer.targets))
        # As many sets of every group, and of the same sizes.
        own_sizes, peer_sizes = set_sizes(own.sets, groups), set_sizes(peer.sets, groups)
        assert perturbed(own_sizes) == perturbed(peer_sizes)
        # The controls that serve the role, and those that each target may be given.
        assert own.controls == peer.controls
        targets = np.sort(joined(own.sets))
        assert np.array_equal(np.flatnonzero(own.pools.any(axis=1)), targets)
        assert np.array_equal(own.pools[targets], peer.pools[targets])
        # Controls as targets: with cell-load in all roles, with us in train.
        lines = set(plan.table["line"]) if role == "train" else {line for line, _ in cells_of}
        extra = {(line, CONTROL): sorted(peer.controls[line]) for line in lines}
        assert by_key(joined(peer.sets), conditions) == cells_of | extra
        assert own_sizes == (peer_sizes if role == "train" else perturbed(peer_sizes))

    if not ours["val"].sets:  # cell-load validates on the test set
        sentences = module.val_dataloader().batch_sampler.sentences
        sizes = set_sizes([theirs["test"].targets[sentence] for sentence in sentences], groups)
        assert sizes == set_sizes(theirs["test"].sets, groups)


@pytest.mark.parametrize("number", range(0, len(TOMLS), 4))
def test_cell_load_does_the_same_with_the_toml_that_we_write_and_our_packed_cells(
    data: Data, tmp_path: Path, number: int
) -> None:
    content, size = TOMLS[number]
    toml = write_toml(content, data.whole, tmp_path / "split.toml")
    our_plan(data, toml, tmp_path / "out")
    written, groups = tmp_path / "out" / "split.toml", keys_of(data.obs, GROUP["batch"])
    once, _ = by_cell_load(toml, data.obs, "batch", size)
    again, _ = by_cell_load(written, data.obs, "batch", size, pert_col="perturbation")
    for role in ROLES:
        assert by_key(once[role].targets, groups) == by_key(again[role].targets, groups)
        assert set_sizes(once[role].sets, groups) == set_sizes(again[role].sets, groups)
        assert once[role].controls == again[role].controls
        assert np.array_equal(once[role].pools, again[role].pools)


def pools_by_rule(obs: pd.DataFrame, strategy: str, place: list[str]) -> np.ndarray:
    """Return `Seen.pools` of all cells: controls of the place, of the same batch where it has any."""
    places, batches = obs.groupby(place).ngroup().to_numpy(), obs["batch"].to_numpy()
    pools = (places[:, None] == places) & (obs["drug_dose"] == CONTROL).to_numpy()
    if strategy == "random":
        return pools
    matched = pools & (batches[:, None] == batches)
    return np.where(matched.any(axis=1)[:, None], matched, pools)


@pytest.mark.parametrize("strategy", ["random", "batch"])
@pytest.mark.parametrize("number", range(0, len(TOMLS), 7))
def test_a_line_in_two_files_is_two_lines_to_cell_load_and_one_to_us(
    data: Data, tmp_path: Path, number: int, strategy: str
) -> None:
    (content, size), obs = TOMLS[number], data.obs
    toml = write_toml(content, data.halved, tmp_path / "split.toml")
    theirs, _ = by_cell_load(toml, obs, strategy, size)
    ours = by_us(data, our_plan(data, toml, tmp_path / "out"), strategy, size)
    conditions, parts = keys_of(obs, GROUP["random"]), keys_of(obs, ["cell_line", "half"])
    for role in ROLES:
        peer, own = theirs[role], ours[role]
        assert by_key(own.targets, conditions) == perturbed(by_key(peer.targets, conditions))
        # In val and test, controls of a part without cells of the role do not serve it.
        served = {parts[i] for i in own.targets.tolist()} if role != "train" else set(parts)
        for line, controls in own.controls.items():
            assert peer.controls[line] == {i for i in controls if parts[i] in served}
        for seen, place in ((own, ["cell_line"]), (peer, ["cell_line", "half"])):
            targets = np.unique(joined(seen.sets))
            expected = pools_by_rule(obs, strategy, place)[targets]
            assert np.array_equal(seen.pools[targets], expected)
            keys = keys_of(obs, GROUP[strategy] + place[1:])
            cells_of = by_key(targets, keys)
            sizes_of = set_sizes(seen.sets, keys)
            assert set(sizes_of) == set(cells_of)
            for key, numbers in cells_of.items():
                cut = [len(numbers[at : at + size]) for at in range(0, len(numbers), size)]
                assert sizes_of[key] == Counter(cut)


# ---------------------------------------------------------------------------------------------
# generators: cell-load reads what we write. It has no role for what we leave out of a line that is
# in use: such conditions stand in val, where it validates on them.

DRUGS = ("Alpha", "Beta 2", "KRAS+MYC", "Eta/x", "Iota", "Kappa", "Lambda", "Mu")
SPLITS: dict[str, dict[str, Any]] = {
    "dc_block": {"line_fraction": 0.4},
    "pair_random": {"fraction": 0.3},
    "context_fewshot": {"line_fraction": 0.5},
    "line_out": {"line_fraction": 0.3},
    "drug_out": {"drug_fraction": 0.3},
    "both_out": {"drug_fraction": 0.4, "line_fraction": 0.3},
    "dose_interpolate": {"drug_fraction": 0.5, "line_fraction": 0.5},
    "dose_extrapolate": {"drug_fraction": 0.3, "val_drug_fraction": 0.3},
    "plate_out": {"plates": ["p1"], "val_plate_fraction": 0.2},
    "moa_out": {"group": "moa", "drug_table": {"path": "t.csv"}, "val_drug_fraction": 0.2},
    "scaffold_out": {
        "drug_table": {"path": "t.csv", "smiles": "smiles"},
        "drug_fraction": 0.5,
        "val_drug_fraction": 0,
    },
    "line_folds": {"k": 3},
    "perturbation_folds": {"k": 4, "val": False},
}
KNOWN = {"listed": list(DRUGS), "groups": {drug: "abcd"[i // 2] for i, drug in enumerate(DRUGS)}}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Store]:
    """Six lines, eight drugs at three doses, a drug per plate, one to eight cells; gaps."""
    home, rng = tmp_path_factory.mktemp("grid"), np.random.default_rng(0)
    rows = []
    for line in [*CELLS, "K562", "q'uote"]:
        rows += [(line, CONTROL, f"p{i % 4}") for i in range(12)]
        for i, drug in enumerate(DRUGS):
            for dose in ("0.05", "0.5", "5"):
                n = rng.integers(1, 9) if rng.random() < 0.9 else 0
                rows += [(line, f"{drug}_{dose}", f"p{i // 2}")] * n
    obs = pd.DataFrame(rows, columns=["cell_line", "drug_dose", "batch"])
    obs.index = pd.Index([f"cell{i:04d}-1" for i in range(len(obs))])
    obs = obs.sample(frac=1.0, random_state=0)
    paths = write_files(obs, pd.Series("all", obs.index), home / "files")
    settings = Dataset(files=["*"], control_pert=CONTROL, scale="counts", embed_keys=["X_hvg"])
    pack(paths, settings, "grid.v1", home / "pack")
    return obs, open_store(home / "pack")


@pytest.mark.parametrize("min_cells", [0, 5])
@pytest.mark.parametrize("generator", sorted(GENERATORS))
def test_cell_load_reads_what_a_generator_holds_out(
    grid: tuple[pd.DataFrame, Store], tmp_path: Path, generator: str, min_cells: int
) -> None:
    obs, store = grid
    given = {"dataset": "grid.v1", "generator": generator, "min_cells": min_cells}
    settings = GENERATORS[generator].model_validate({**given, **SPLITS[generator]})
    fold = 1 if generator.endswith("folds") else None
    split(store.directory, settings, fold, None, tmp_path, KNOWN, one_hot=False)
    theirs, _ = by_cell_load(tmp_path / "split.toml", obs, "batch", 8, pert_col="perturbation")

    keys = keys_of(obs, GROUP["random"])
    every = perturbed(by_key(np.arange(len(obs)), keys))
    roles = dict.fromkeys(every, "none")
    for line, label, role, _ in read_plan(tmp_path / "plan.parquet").table.itertuples(index=False):
        roles[line, label] = role
    used = {line for (line, _), role in roles.items() if role != "none"}
    ours: dict[str, dict[Key, list[int]]] = {role: {} for role in (*ROLES, "none")}
    for key, role in roles.items():
        ours[role][key] = every[key]
    kept_out = {key: cells for key, cells in ours["none"].items() if key[0] in used}
    assert ours["train"]
    assert ours["test"]
    assert bool(kept_out) == (generator == "both_out" or min_cells > 0)

    expected = {**ours, "val": ours["val"] | kept_out}
    for role in ROLES:
        assert perturbed(by_key(theirs[role].targets, keys)) == expected[role]
        n = sum(obs["drug_dose"].iloc[theirs[role].targets] != CONTROL)
        assert n == sum(map(len, expected[role].values()))
