"""What reruns after which change, seen by running the workflow.

Slow because every case is a call of snakemake (about 1 s) on a road that really ran (about 1 min).
"""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from road import edit, run, snakemake, would_run

pytestmark = pytest.mark.slow

SCORING = {"reference", "evaluate", "verdict", "report"}


def test_nothing_to_do_when_nothing_changed(road):
    assert would_run(road) == {}


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_a_fresh_checkout_reruns_nothing(road, profile):
    """Every tracked file gets a new modification time, as after `git clone`."""
    for part in ("Snakefile", "rules", "workflow", "profiles", "config", "envs", "src"):
        files = [road / part] if part == "Snakefile" else (road / part).rglob("*")
        for path in files:
            if path.is_file():
                os.utime(path)
    arguments = [] if profile == "default" else ["--workflow-profile", "slurm"]
    assert would_run(road, *arguments) == {}


def test_evaluation_code_reruns_scoring_only(road):
    path = road / "src/statetx/evaluation/scores/pseudobulk.py"
    path.write_text(path.read_text() + "\n_CHANGED = 1\n")
    assert set(would_run(road)) == SCORING


def test_a_reworded_error_a_comment_and_a_docstring_rerun_nothing(road):
    source = road / "src/statetx"
    edit(source / "core/errors.py", "where:", "place:")
    edit(source / "data/store/line_store.py", "has no perturbation", "knows no perturbation")
    for name in (
        "training/fit.py",
        "data/sets/set_table.py",
        "evaluation/scores/differential_expression.py",
        "models/network/set_transformer.py",
    ):
        path = source / name
        path.write_text(path.read_text() + "\n# A comment.\n")
        edit(path, '"""', '"""Reworded. ')
    assert would_run(road) == {}


def test_drawing_progress_and_processes_rerun_nothing_that_is_computed(road):
    source = road / "src/statetx"
    edit(source / "reporting/page/training_curves.py", "#56b4e9", "#56b4e8")
    edit(source / "training/loop/progress.py", "mininterval=0.5", "mininterval=0.7")
    edit(source / "training/launch.py", "RENDEZVOUS_S = 600", "RENDEZVOUS_S = 900")
    assert set(would_run(road)) <= {"report"}


def test_a_moved_module_reruns_nothing(road):
    source = road / "src/statetx"
    (source / "data/store/roles.py").rename(source / "data/store/who_serves.py")
    for path in source.rglob("*.py"):
        path.write_text(path.read_text().replace("data.store.roles", "data.store.who_serves"))
    assert would_run(road) == {}


def test_a_function_that_nothing_calls_reruns_nothing(road):
    path = road / "src/statetx/data/store/store.py"
    path.write_text(path.read_text() + "\n\ndef unused():\n    return 1\n")
    assert would_run(road) == {}


def test_a_frozen_model_is_kept_and_what_changed_is_said(road):
    config = road / "config/test/tiny.yaml"
    content = yaml.safe_load(config.read_text())
    content["models"]["small"]["training"]["lr"] = 0.5
    config.write_text(yaml.safe_dump(content))
    assert would_run(road)["train"] == 1
    content["models"]["small"]["frozen"] = True
    config.write_text(yaml.safe_dump(content))
    said = snakemake(road, "--dry-run", fork=True)
    assert "small/seed0/model is frozen and kept although the settings of train changed" in said
    assert would_run(road) == {}
    path = road / "src/statetx/evaluation/scores/pseudobulk.py"
    path.write_text(path.read_text() + "\nX = 1\n")
    assert "evaluate" in would_run(road), "what reads the model is still made again"
    shutil.rmtree(road / "results/tiny/block/small/seed0/model")
    said = snakemake(road, "--dry-run", code=1, fork=True)
    assert "model 'small' is frozen, but it was never trained" in said


def test_a_new_baseline_and_a_new_key_rerun_nothing(road):
    source = road / "src/statetx"
    (source / "models/kinds/new_baseline.py").write_text("KIND = 'new_baseline'\n")
    edit(
        source / "config/sections.py",
        "    n_bootstrap: int",
        '    brand_new: int = Field(3, description="a key of a later version")\n    n_bootstrap: int',
    )
    assert would_run(road) == {}


def test_a_model_s_own_code_retrains_that_kind_only(road):
    path = road / "src/statetx/models/network/set_transformer.py"
    path.write_text(path.read_text() + "\n_CHANGED = 1\n")
    jobs = would_run(road)
    assert jobs["train"] == 1
    assert "reference" not in jobs


def test_training_code_does_not_touch_the_reference(road):
    path = road / "src/statetx/training/fit.py"
    path.write_text(path.read_text() + "\n_CHANGED = 1\n")
    jobs = would_run(road)
    assert jobs["train"] == 3
    assert not {"pack_tiny", "split", "reference"} & set(jobs)


def test_learning_rate_retrains_that_run_only(road):
    edit(road / "config/test/tiny.yaml", "lr: 1.0e-3", "lr: 2.0e-3")
    jobs = would_run(road)
    assert jobs["train"] == 1
    assert "reference" not in jobs


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("n_bootstrap: 100", "n_bootstrap: 200", {"verdict", "report"}),
        ("n_bootstrap: 100", "n_bootstrap: 100, checkpoints: [best, step=2]", {"prune"}),
        (
            "n_bootstrap: 100",
            "n_bootstrap: 100, profile: minimal",
            {"evaluate", "verdict", "report"},
        ),
        ("evaluation:", "report: {title: Other}\nevaluation:", {"report"}),
        ("evaluation:", "prune: {mode: delete}\nevaluation:", {"prune"}),
        ("evaluation:", "tracking: {tags: [a]}\nevaluation:", set()),
    ],
)
def test_each_section_reruns_its_own_stage(road, old, new, expected):
    edit(road / "config/test/tiny.yaml", old, new)
    assert set(would_run(road)) == expected


@pytest.fixture
def unlocked(road):
    """A finished road whose metadata Snakemake lost: after a kill and --unlock, or a copy."""
    shutil.rmtree(road / ".snakemake")
    return road


def test_lost_metadata_reruns_nothing(unlocked):
    assert would_run(unlocked) == {}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "n_bootstrap: 100",
            "n_bootstrap: 100, profile: minimal",
            {"evaluate", "verdict", "report"},
        ),
        ("n_bootstrap: 100", "n_bootstrap: 200", {"verdict", "report"}),
        ("evaluation:", "report: {title: Other}\nevaluation:", {"report"}),
        (
            "lr: 1.0e-3",
            "lr: 2.0e-3",
            {"train", "prune", "predict", "evaluate", "verdict", "report"},
        ),
        ("dropout: 0.0\n", "dropout: 0.0\n    loss: mse\n", None),
    ],
)
def test_without_metadata_settings_count_as_before(unlocked, old, new, expected):
    edit(unlocked / "config/test/tiny.yaml", old, new)
    jobs = would_run(unlocked)
    assert set(jobs) == (expected or set(jobs))
    assert jobs.get("train", 1) == 1, "the other models are fresh"


def test_without_metadata_code_counts_as_before(unlocked):
    path = unlocked / "src/statetx/evaluation/scores/pseudobulk.py"
    path.write_text(path.read_text() + "\n_CHANGED = 1\n")
    assert set(would_run(unlocked)) == SCORING


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("main/verdict.json", {"verdict", "report"}),
        ("main/verdict.json.record.json", {"verdict", "report"}),
        ("block/small/seed0/scores/best/L02/record.json", {"evaluate", "verdict", "report"}),
        (
            "block/small/seed0/model",
            {"train", "prune", "predict", "evaluate", "verdict", "report"},
        ),
        (
            "block/small/seed0/model/record.json",
            {"train", "prune", "predict", "evaluate", "verdict", "report"},
        ),
    ],
)
def test_what_was_deleted_is_made_again(road, gone, expected):
    path = road / "results/tiny" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert set(would_run(road)) == expected


def test_other_results_in_the_place_of_ours_are_made_again(road):
    """The predictions of another model, with their own record."""
    home = road / "results/tiny/block"
    for name in ("L02.h5ad", "L02.h5ad.record.json"):
        shutil.copy2(
            home / "no_change/seed0/predictions/best" / name,
            home / "small/seed0/predictions/best" / name,
        )
    assert set(would_run(road)) == {"predict", "evaluate", "verdict", "report"}
    said = run(
        road, "-m", "statetx", "evaluate-run", "--config", "config/test/tiny.yaml",
        "--run", "tiny/block/small/0", code=1,
    )  # fmt: skip
    assert "L02.h5ad is not what this configuration makes" in said


def test_damage_is_noticed_before_it_is_scored(road):
    path = road / "results/tiny/block/small/seed0/predictions/best/L02.h5ad"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    said = run(
        road, "-m", "statetx", "evaluate-run", "--config", "config/test/tiny.yaml",
        "--run", "tiny/block/small/0", code=1,
    )  # fmt: skip
    assert "is not the file that its stage wrote" in said
    assert str(path.relative_to(road)) in said


def test_code_that_changes_while_jobs_run_is_refused(road):
    """Changed after the workflow was parsed, and changed back: nothing would be stale afterwards."""
    script = road / "changed.py"
    script.write_text(
        "from pathlib import Path\n"
        "from statetx.stages import jobs, steps\n"
        "from statetx.config import load\n"
        "cfg = load(Path('config/test/tiny.yaml'))\n"
        "step = steps.verdict_step(cfg, 'main')\n"
        "path = Path('src/statetx/evaluation/verdict/verdict.py')\n"
        "with jobs.job(), jobs.recorded(step):\n"
        "    path.write_text(path.read_text() + '\\nX = 1\\n')\n"
    )
    said = run(road, "changed.py", code=1)
    assert "the code of stage verdict changed after this run was started" in said


def test_a_new_model_runs_alone(road):
    edit(
        road / "config/test/tiny.yaml",
        "models:\n",
        "models:\n  perturbation_mean: {kind: perturbation_mean}\n",
    )
    edit(
        road / "config/test/tiny.yaml",
        "models: [no_change",
        "models: [perturbation_mean, no_change",
    )
    jobs = would_run(road)
    assert jobs["train"] == 1
    assert jobs["evaluate"] == 1
    assert "reference" not in jobs


TOML_CONFIG = """
datasets:
  tiny: {tiny}
splits:
  hand: {{dataset: tiny, toml: split.toml}}
models:
  context_mean: {{kind: context_mean}}
experiments:
  main: {{splits: [hand], models: [context_mean]}}
evaluation: {{n_bootstrap: 100}}
"""

TOML = """
[datasets]
tiny = "anywhere.h5ad"
[training]
tiny = "train"
[fewshot."tiny.L01"]
val = []
test = ["Drug01_0.5", "Drug01_5"]
"""


def test_toml_counts_by_what_it_says(road):
    config = road / "config/test/tiny.yaml"
    dataset = config.read_text().split("tiny:\n")[1].split("splits:")[0]
    (road / "config/hand.yaml").write_text(
        TOML_CONFIG.replace("{tiny}", "\n" + dataset.rstrip()).replace("{{", "{").replace("}}", "}")
    )
    toml = road / "split.toml"
    toml.write_text(TOML)
    snakemake(road, config="hand.yaml")
    assert would_run(road, config="hand.yaml") == {}
    toml.write_text("# A comment.\n" + TOML)
    assert would_run(road, config="hand.yaml") == {}
    toml.write_text(
        TOML.replace('"Drug01_0.5", "Drug01_5"', '"Drug01_5", "Drug01_0.5", "Drug01_5"')
    )
    assert would_run(road, config="hand.yaml") == {}
    toml.write_text(TOML.replace("Drug01", "Drug02"))
    before = times(road)
    snakemake(road, config="hand.yaml")
    made_again = {name for name, time in times(road).items() if time > before[name]}
    assert made_again == {
        *("plan.parquet", "split.toml", "lint.json", "model.json", "predictions"),
        *("real_de.parquet", "scores.csv", "verdict.json", "page"),
    }
    assert would_run(road, config="hand.yaml") == {}


def times(road: Path) -> dict[str, float]:
    """When each stage last wrote."""
    split = road / "results/tiny/hand"
    run = split / "context_mean/seed0"
    files = {
        "manifest.json": road / "results/tiny/pack/manifest.json",
        "L01.h5ad": road / "results/tiny/pack/L01.h5ad",
        "plan.parquet": split / "plan.parquet",
        "split.toml": split / "split.toml",
        "lint.json": split / "lint.json",
        "model.json": run / "model/model.json",
        "predictions": run / "predictions/best/L01.h5ad",
        "real_de.parquet": split / "reference/L01/real_de.parquet",
        "scores.csv": run / "scores/best/L01/scores.csv",
        "verdict.json": road / "results/tiny/main/verdict.json",
        "page": road / "results/reports/main.html",
    }
    return {name: path.stat().st_mtime for name, path in files.items()}


def test_both_profiles_agree_on_what_is_stale():
    import yaml
    from road import ROOT

    default, slurm = (
        yaml.safe_load((ROOT / f"profiles/{name}/profile.yaml").read_text())
        for name in ("default", "slurm")
    )
    for key in ("rerun-triggers", "max-checksum-file-size"):
        assert default[key] == slurm[key]
    assert "code" not in default["rerun-triggers"]
