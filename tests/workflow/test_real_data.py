"""A public data set, end to end, when it is there.

Slow because it runs the workflow (about a minute).
"""

import json

import pytest
from road import copy_project, edit, run, snakemake

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("real"))


def test_norman_held_out_perturbations(home, shared):
    # Two parts instead of four: half the jobs, every perturbation is still held out once.
    edit(home / "config/examples/norman_k562.yaml", "k: 4", "k: 2")
    snakemake(home, "--config", f"data_root={shared / 'data'}", config="examples/norman_k562.yaml")
    verdict = json.loads((home / "results/norman/norman_k562/verdict.json").read_text())
    assert verdict["cohort"]["n_conditions"] == 33, "each perturbation is tested once"
    means = {row["name"]: row["metrics"]["pearson_delta"]["mean"] for row in verdict["rows"]}
    assert means["no_change"] < means["context_mean"] < means["ceiling"]
    assert any("fell back" in flag["message"] for flag in verdict["flags"])
    assert (home / "results/reports/norman_k562.html").stat().st_size > 50_000


def test_a_model_of_ids_refuses_labels_it_never_saw(home, shared):
    kang = (home / "config/examples/kang_ifnb.yaml").read_text()
    pertsets = kang.split("  pertsets:\n")[1].split("\nexperiments:")[0]
    config = home / "config/examples/norman_k562.yaml"
    edit(config, "models:\n", f"data_root: {shared / 'data'}\nmodels:\n  pertsets:\n{pertsets}\n")
    edit(config, "models: [no_change,", "models: [pertsets, no_change,")
    command = ["-m", "statetx", "train", "--config", str(config), "--run"]
    text = run(home, *command, "norman/lp.0/pertsets/0", code=1)
    assert "Traceback" not in text
    assert "17 of 17 test perturbations have no training condition" in text
    assert not (home / "results/norman/lp.0/pertsets/seed0/model").exists()
