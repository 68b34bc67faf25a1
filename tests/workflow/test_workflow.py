"""The whole road on tiny data, its files, its face, its bad inputs.

Slow because it starts a Python with torch or numba for every job.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import anndata as ad
import pandas as pd
import pytest
import yaml
from road import copy_project, edit, run, snakemake, would_run

pytestmark = pytest.mark.slow


def test_every_contract_file_is_there(road):
    results = road / "results"
    run_dir = results / "tiny/block/small/seed0"
    expected = [
        "tiny/pack/manifest.json",
        "tiny/pack/conditions.parquet",
        "tiny/block/plan.parquet",
        "tiny/block/split.toml",
        "tiny/block/lint.json",
        "tiny/main/leaderboard.csv",
        "tiny/main/verdict.json",
        "reports/main.html",
    ]
    assert [name for name in expected if not (results / name).is_file()] == []
    model = {path.name for path in (run_dir / "model").glob("[!.]*")}
    assert model == {
        "model.json", "genes.txt", "best.safetensors", "last.safetensors", "golden.npz",
        "metrics.csv", "curves.svg", "config.yaml", "record.json",
    }  # fmt: skip
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {
        f"step={step}.safetensors" for step in (2, 4, 6)
    }
    (line,) = (run_dir / "scores/best").iterdir()
    assert {path.name for path in line.iterdir()} == {
        "results.csv", "agg_results.csv", "scores.csv", "de.parquet", "record.json",
    }  # fmt: skip
    assert not list((road / ".state/train").glob("*")), "resume state is removed when training ends"


def test_predictions_hold_the_test_conditions_and_no_controls(road):
    plan = pd.read_parquet(road / "results/tiny/block/plan.parquet")
    conditions = pd.read_parquet(road / "results/tiny/pack/conditions.parquet")
    (path,) = (road / "results/tiny/block/small/seed0/predictions/best").glob("*.h5ad")
    cells = ad.read_h5ad(path)
    line = path.stem
    wanted = plan[(plan["role"] == "test") & (plan["line"] == line)]["perturbation"]
    real = conditions[conditions["line"] == line].groupby("perturbation")["n_cells"].sum()
    counts = cells.obs["perturbation"].astype(str).value_counts()
    assert counts.to_dict() == real[wanted].to_dict()


def test_prune_says_what_it_would_free(road):
    manifest = json.loads((road / "results/tiny/block/small/seed0/prune.json").read_text())
    assert manifest["mode"] == "dry-run"
    assert manifest["bytes_freed"] > 0
    assert (road / "results/tiny/block/small/seed0/checkpoints/step=2.safetensors").exists()


def test_a_stage_run_by_hand_gives_the_workflow_s_result(road):
    results = road / "results/tiny/block"
    before = (results / "small/seed0/model/best.safetensors").read_bytes()
    scores = {p: p.read_text() for p in results.rglob("scores.csv")}
    assert scores
    shutil.rmtree(results / "small/seed0/model")
    common = ["-m", "statetx"]
    config = ["--config", "config/test/tiny.yaml"]
    run(road, *common, "train", *config, "--run", "tiny/block/small/0")
    run(road, *common, "predict", *config, "--run", "tiny/block/small/0")
    run(road, *common, "evaluate-run", *config, "--run", "tiny/block/small/0")
    assert (results / "small/seed0/model/best.safetensors").read_bytes() == before
    assert {p: p.read_text() for p in results.rglob("scores.csv")} == scores


def test_killed_training_leaves_no_model_and_resumes(road):
    """SIGKILL of everything, as when a node dies; then the same command again."""
    model = road / "results/tiny/block/small/seed0/model"
    edit(road / "config/test/tiny.yaml", "max_steps: 6", "max_steps: 400")
    edit(road / "config/test/tiny.yaml", "val_freq: 3", "val_freq: 20")
    edit(road / "config/test/tiny.yaml", "ckpt_every_n_steps: 2", "ckpt_every_n_steps: 20")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--configfile",
        "config/test/tiny.yaml",
        "--cores",
        "2",
    ]
    env = {**os.environ, "PYTHONPATH": str(road / "src"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "train_all"], cwd=road, env=env, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        for _ in range(1800):
            if list(road.glob(".state/train/*small*/last.ckpt")):
                break
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGKILL)
    (_,) = road.glob(".state/train/*small*/last.ckpt")
    assert not model.exists()
    text = snakemake(road, "train_all")
    assert "a run was killed (process" in text
    log = (road / "logs/tiny/block/small/seed0/train.log").read_text()
    assert "resum" in log, text + log
    assert json.loads((model / "model.json").read_text())["checkpoints"]["last"]["step"] == 400
    assert not list(road.glob(".state/train/*"))


def test_as_module_of_another_workflow(road, tmp_path):
    home = tmp_path / "user"
    home.mkdir()
    config = yaml.safe_load((road / "config/test/tiny.yaml").read_text())
    # The fewest jobs that reach a verdict: 3 lines, 1 model.
    config["datasets"]["tiny"]["simulate"]["n_lines"] = 3
    config["splits"]["block"] |= {"line_fraction": 0.34, "val_line_fraction": 0.34}
    config["models"] = {"context_mean": config["models"]["context_mean"]}
    config["experiments"]["main"]["models"] = ["context_mean"]
    (home / "config.yaml").write_text(yaml.safe_dump({"theirs": config}))
    (home / "Snakefile").write_text(
        f"""
configfile: "config.yaml"

module statetx:
    snakefile: "{road}/Snakefile"
    config: config["theirs"]

use rule * from statetx as statetx_*

rule everything:
    default_target: True
    input: "results/tiny/main/verdict.json"
"""
    )
    run(
        home, "-m", "snakemake", "--cores", "2",
        "--rerun-triggers", "mtime", "params", "input", "software-env",
        PYTHONPATH=str(road / "src"),
    )  # fmt: skip
    assert (home / "results/tiny/main/verdict.json").exists()


def test_snakemake_s_own_report_can_be_made(road):
    snakemake(road, "--report", "report.html", fork=True)
    assert (road / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: 1.0e-3", "learning_rate: 1", "unknown key 'models.small.training.learning_rate'"),
        ("kind: no_change", "kind: nochange", "did you mean 'no_change'?"),
        ("files: simulate", "files: ['absent/*.h5ad']", "no file matches 'absent/*.h5ad'"),
    ],
)
def test_a_wrong_configuration_stops_before_anything_runs(tmp_path, old, new, message):
    home = copy_project(tmp_path)
    edit(home / "config/test/tiny.yaml", old, new)
    text = snakemake(home, code=1, fork=True)
    assert message in text
    assert "Traceback" not in text
    assert not (home / "results").exists()


@pytest.mark.parametrize("place", ["results", "logs"])
def test_places_that_cannot_be_written_are_named(tmp_path, place):
    home = copy_project(tmp_path)
    (home / place).write_text("a file where the directory should be")
    text = snakemake(home, code=1, fork=True)
    assert f"cannot write into '{place}'" in text
    assert "run in another directory" in text
    assert "Traceback" not in text


def test_another_configfile_replaces_the_demo(tmp_path):
    home = copy_project(tmp_path)
    jobs = would_run(home)
    assert "simulate_tiny" in jobs
    assert "simulate_demo" not in jobs
