"""Real files through the external sort, genes chosen on a split, controls partitioned: the road, and
what reruns.

Slow because it starts a Python for every job.
"""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from road import copy_project, edit, run, snakemake, would_run
from typer.testing import CliRunner

from statetx.cli.main import app
from statetx.config import Simulate
from statetx.core.errors import ResultsError
from statetx.data.simulate import simulate

pytestmark = pytest.mark.slow

CONFIG = """
datasets:
  mine:
    files: ["data/plate*.h5ad"]
    control_pert: DMSO_TF_00
    scale: counts
    control_match: [[cell_line, batch], [cell_line]]
splits:
  block: {dataset: mine, generator: dc_block, drug_fraction: 0.4, line_fraction: 0.34,
          val_drug_fraction: 0.2, val_line_fraction: 0.34, controls: partition}
models:
  perturbation_mean: {kind: perturbation_mean}
  small:
    kind: pertsets
    genes: {n_hvg: 30}
    cell_set_len: 8
    hidden_dim: 16
    n_encoder_layers: 1
    n_decoder_layers: 1
    sets: {short: mask, weights: sqrt, within_batch: true, control_sets: identity}
    backbone: {num_hidden_layers: 1, num_attention_heads: 2, head_dim: 8, intermediate_size: 16}
    training: {max_steps: 6, batch_size: 4, lr: 1.0e-3, val_freq: 3, ckpt_every_n_steps: 2}
experiments:
  main: {splits: [block], models: [perturbation_mean, small]}
evaluation: {n_bootstrap: 100}
"""


def plates(home, seed=0):
    """Two files, each with all lines of a plate."""
    size = {"n_lines": 3, "n_drugs": 5, "doses": [0.5, 5.0], "n_genes": 100, "n_hvg": 20}
    simulate(
        Simulate(**size, cells_per_condition=20, controls_per_line=80, seed=seed), home / "sim"
    )
    cells = ad.concat([ad.read_h5ad(path) for path in sorted((home / "sim").glob("*.h5ad"))])
    (home / "data").mkdir(exist_ok=True)
    for plate in ("plate1", "plate2"):
        cells[cells.obs["batch"] == plate].copy().write_h5ad(home / "data" / f"{plate}.h5ad")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    home = copy_project(tmp_path_factory.mktemp("mine"))
    (home / "config/mine.yaml").write_text(CONFIG)
    plates(home)
    snakemake(home, config="mine.yaml")
    return home


def jobs(home):
    return would_run(home, config="mine.yaml")


def test_the_road(done):
    results = done / "results/mine"
    assert sorted(path.name for path in (results / "pack").iterdir()) == [
        "L01.h5ad", "L01.h5ad.record.json", "L02.h5ad", "L02.h5ad.record.json", "L03.h5ad",
        "L03.h5ad.record.json", "conditions.parquet", "content.json", "manifest.json",
        "manifest.json.record.json", "sources.json",
    ], "temporary parts are gone"  # fmt: skip
    genes = (results / "block/genes/30.txt").read_text().split()
    assert len(genes) == 30
    for model in ("perturbation_mean", "small"):
        home = results / "block" / model / "seed0"
        assert (home / "model/genes.txt").read_text().split() == genes
        for path in (home / "predictions/best").glob("*.h5ad"):
            assert ad.read_h5ad(path, backed="r").var_names.tolist() == genes
        assert list(home.glob("scores/best/*/scores.csv"))
    assert (done / "results/reports/main.html").exists()
    assert jobs(done) == {}
    assert would_run(done, "genes_all", config="mine.yaml") == {}


def test_basal_cells_of_predictions_are_test_controls(done):
    """The last tenth (and the odd ones) of each plate's controls: never a target of training."""
    results = done / "results/mine"
    plan = pd.read_parquet(results / "block/plan.parquet")
    assert plan.attrs == {"controls": "partition"}
    seen = 0
    for path in (results / "block/small/seed0/predictions/best").glob("*.h5ad"):
        predicted = ad.read_h5ad(path).obs
        packed = ad.read_h5ad(results / "pack" / path.name).obs
        control = packed[packed["perturbation"] == "DMSO_TF_00"]
        allowed, before = set(), 0
        for _, block in control.groupby("batch", observed=True):
            end = before + len(block)
            spared = int(0.9 * end) - int(0.9 * before)
            allowed |= set(block.index[spared:])
            before = end
        assert set(predicted["control_barcode"]) <= allowed
        seen += len(predicted)
    assert seen > 0


def test_genes_know_nothing_of_test_cells(done, tmp_path, monkeypatch):
    """Scrambled cells of the held-out block: another store, the same genes."""
    (tmp_path / "mine.yaml").write_text(CONFIG)
    plates(tmp_path)
    plan = pd.read_parquet(done / "results/mine/block/plan.parquet")
    tested = set(plan.loc[plan["role"] == "test", ["line", "perturbation"]].apply(tuple, axis=1))
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "data").glob("*.h5ad")):
        cells = ad.read_h5ad(path)
        held = [pair in tested for pair in zip(cells.obs["cell_line"], cells.obs["drug_dose"], strict=True)]  # fmt: skip
        counts = cells.X.toarray()
        counts[held] = rng.poisson(3, counts[held].shape)
        cells.X = counts
        cells.write_h5ad(path)
    monkeypatch.chdir(tmp_path)
    for stage, name in (("pack", "mine"), ("split", "mine/block"), ("genes", "mine/block")):
        ended = CliRunner().invoke(app, [stage, "--config", "mine.yaml", "--run", name])
        assert ended.exit_code == 0, ended.output
    changed = yaml.safe_load(Path("mine.yaml").read_text())
    changed["splits"]["block"]["drug_fraction"] = 0.6
    Path("changed.yaml").write_text(yaml.safe_dump(changed))
    call = ["genes", "--config", "changed.yaml", "--run", "mine/block"]
    refused = CliRunner().invoke(app, call)
    assert isinstance(refused.exception, ResultsError)
    assert (
        "not what this configuration makes: the settings of split changed" in refused.exception.what
    )
    there = tmp_path / "results/mine/block/genes/30.txt"
    assert there.read_text() == (done / "results/mine/block/genes/30.txt").read_text()


def test_what_reruns(done):
    for path in (done / "data").iterdir():
        path.touch()
    assert jobs(done) == {}
    config = done / "config/mine.yaml"
    whole = config.read_text()
    edit(config, "    genes: {n_hvg: 30}", "    genes: {n_hvg: 30}\n    resident: disk")
    assert jobs(done) == {}, "where cells lie changes no result"
    config.write_text(whole)
    edit(config, "[[cell_line, batch], [cell_line]]", "[[cell_line]]")
    rerun = jobs(done)
    assert {"train", "predict", "evaluate"} <= set(rerun)
    assert not {"split", "genes", "reference"} & set(rerun)
    assert not [name for name in rerun if name.startswith(("survey", "scatter", "gather", "pack"))]
    config.write_text(whole)
    edit(config, "n_hvg: 30", "n_hvg: 20")
    rerun = jobs(done)
    assert {"genes", "train", "predict", "reference", "evaluate"} <= set(rerun)
    assert not [
        name for name in rerun if name.startswith(("survey", "scatter", "gather", "pack", "split"))
    ]
    config.write_text(whole)


def test_files_count_by_their_cells(done, tmp_path):
    """Without Snakemake's own metadata too: results that were copied or unlocked lose it."""
    import shutil

    import h5py

    home = tmp_path / "moved"
    shutil.copytree(done, home)
    shutil.rmtree(home / ".snakemake")
    (home / "data").rename(home / "elsewhere")
    edit(home / "config/mine.yaml", "data/plate", f"{home}/elsewhere/plate")
    assert jobs(home) == {}, "moved, named by an absolute path"
    path = home / "elsewhere/plate1.h5ad"
    cells = ad.read_h5ad(path)
    cells.obs["new"] = 1
    cells.write_h5ad(path, compression="gzip")
    assert jobs(home) == {}, "another column, compressed"
    with h5py.File(path, "r+") as file:
        values = file["X/data"][()]
        values[:50] *= 3
        file["X/data"][...] = values
    rerun = jobs(home)
    assert rerun["compare_mine"] == 1
    assert {"survey_mine", "scatter_mine", "gather_mine", "pack_mine", "train"} <= set(rerun)


def test_new_cells_are_packed_although_the_parts_are_gone(done, tmp_path):
    import shutil

    home = tmp_path / "changed"
    shutil.copytree(done, home)
    assert would_run(home, config="mine.yaml") == {}, "a copied project is not stale"
    plates(home, seed=5)
    rerun = would_run(home, config="mine.yaml")
    assert rerun["survey_mine"] == 1
    assert rerun["scatter_mine"] == 2
    assert rerun["gather_mine"] == 3
    assert rerun["pack_mine"] == 1
    said = run(
        home, "-m", "statetx", "split", "--config", "config/mine.yaml", "--run", "mine/block",
        code=1,
    )  # fmt: skip
    assert "the store is stale" in said
    assert "statetx pack" in said
    command = ["-m", "statetx", "pack", "--config", "config/mine.yaml", "--run", "mine"]
    assert "packing takes about" in run(home, *command)
    assert not list((home / ".state/pack").iterdir())
    (home / "data").rename(home / "archive")
    run(home, "-m", "statetx", "split", "--config", "config/mine.yaml", "--run", "mine/block")
    said = run(home, "-m", "statetx", "genes", "--config", "config/mine.yaml", "--run", "mine/block")  # fmt: skip
    assert "30 of 100 genes chosen on training cells (counts)" in said
