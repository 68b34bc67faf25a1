"""What an interrupted stage leaves for its next attempt, and what the workflow keeps of source files.

A damaged one is made anew or refused: the result never differs.
"""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import damage
import hdf5
import numpy as np
import samples
import yaml
from engine import Kind, Result

STATE = Path(".state/train/resumed")


def kinds(tree: Path) -> list[Kind]:
    """Return the kinds of resumable state; training needs a finished tree."""
    return [
        Kind("state-train", partial(_training, tree), _some(f"{STATE}/*"), train),
        Kind("state-pack", _packing, _some(".state/pack/**/*"), pack),
        Kind("state-inspect", _inspected, _some(".state/inspect/*"), inspect),
    ]


def _some(pattern: str) -> Any:
    def damage_one(home: Path, rng: random.Random) -> str:
        path = damage.files_below(home, rng, pattern)
        change = damage.in_bytes
        if path.suffix == ".json" and rng.random() < 0.5:
            change = damage.in_json
        elif path.suffix == ".h5ad" and rng.random() < 0.5:
            change = hdf5.in_h5ad
        return change(path, rng)

    return damage_one


class Interrupted(Exception):
    """Ends a stage where a kill would."""


def _fit(home: Path) -> None:
    from statetx.config import load
    from statetx.stages import paths
    from statetx.training.fit import fit

    with samples.inside(home):
        cfg = load("config.yaml")
        split = paths.split_dir("tiny", "block")
        out = Path("made")
        fit(
            paths.pack_dir("tiny"),
            split / "plan.parquet",
            cfg.model("small"),
            seed=0,
            out=out / "model",
            state_dir=STATE,
            checkpoints_dir=out / "checkpoints",
            keep=["best", "last"],
            genes=paths.genes_file(cfg, "tiny", "block"),
        )


def _training(tree: Path, home: Path) -> None:
    """Leave a training that was interrupted before its model was written."""
    for name in ("config.yaml", "results/tiny/pack", "results/tiny/block/plan.parquet"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (tree / name).is_dir() else shutil.copy2
        copy(tree / name, home / name)
    shutil.copytree(tree / "results/tiny/block/genes", home / "results/tiny/block/genes")
    with mock.patch("statetx.models.model_dir.save", side_effect=Interrupted):
        try:
            _fit(home)
        except Interrupted:
            return
    raise AssertionError("the training was not interrupted")


def train(home: Path) -> Result:
    """Finish the training."""
    from statetx.models import model_dir

    _fit(home)
    out: dict[str, Any] = {}
    for checkpoint in ("best", "last"):
        model = model_dir.load(home / "made/model", checkpoint)
        cells = np.linspace(0, 2, 4 * model.meta["n_inputs"]).reshape(4, -1)
        for label in model.perturbations:
            out[f"{checkpoint} {label}"] = model.predict(cells, "L02", label).cells
    return out


def _pack(home: Path) -> None:
    from statetx.config import Dataset
    from statetx.data.pack.pack import pack as work

    with samples.inside(home):
        said = {"files": ["cells.h5ad"], "control_pert": samples.CONTROL, "scale": "counts"}
        settings = Dataset.model_validate(said)
        work([Path("cells.h5ad")], settings, "tiny", "pack", ".state/pack/tiny")


def _packing(home: Path) -> None:
    """Leave a packing that was interrupted after its first line."""
    from statetx.data.pack.gather import gather

    samples.counts_file(home)
    stop = mock.Mock(side_effect=[1, Interrupted])

    def first_only(*arguments: Any) -> None:
        stop()
        gather(*arguments)

    with mock.patch("statetx.data.pack.pack.gather", first_only):
        try:
            _pack(home)
        except Interrupted:
            return
    raise AssertionError("the packing was not interrupted")


def pack(home: Path) -> Result:
    """Finish the packing."""
    from statetx.data.store.store import open_store

    _pack(home)
    store = open_store(home / "pack")
    out: dict[str, Any] = {"genes": store.genes, "lines": store.lines}
    for name in store.lines:
        line = store.line(name)
        rows = np.arange(line.n_cells)
        out[name] = [line.counts(rows), line.barcodes.tolist(), line.batches(rows).tolist()]
    return out


def _inspected(home: Path) -> None:
    """Leave what the workflow noted of a source file."""
    samples.counts_file(home)
    data = {"files": ["cells.h5ad"], "control_pert": samples.CONTROL, "scale": "counts"}
    content = {**samples.CONFIG, "datasets": {"tiny": data}}
    (home / "config.yaml").write_text(yaml.safe_dump(content))
    _facts(home)


def _facts(home: Path) -> Result:
    from statetx.config import load
    from statetx.stages import packed_sources, parameters

    with samples.inside(home):
        cfg = load("config.yaml")
        params = parameters.pack_params(cfg, "tiny")
        return {"params": json.dumps(params), "lines": packed_sources.cell_lines(cfg, "tiny")}


def inspect(home: Path) -> Result:
    """Ask what the workflow asks of source files."""
    notes = sorted((home / ".state/inspect").glob("*.json"))
    damaged = {path: path.read_bytes() for path in notes}
    for path in notes:
        path.unlink()
    _facts(home)  # the names of the notes depend on where the file lies: note it here
    new = sorted((home / ".state/inspect").glob("*.json"))
    for path, data in zip(new, damaged.values(), strict=False):
        path.write_bytes(data)
    return _facts(home)
