"""The demo finds the truth that was planted in its cells.

Slow (2-3 minutes) because it trains the shipped model on the shipped data: a smaller model or less
data would not show that what `make demo` prints is true.
"""

import json

import pytest
from road import copy_project, snakemake
from stable_digests import stable_digests

from golden import GOLDEN, machine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    home = copy_project(tmp_path_factory.mktemp("demo"))
    snakemake(home, config="config.yaml")
    return home / "results"


@pytest.fixture(scope="module")
def verdict(results):
    return json.loads((results / "demo/main/verdict.json").read_text())


def test_every_result_is_what_it_was(results):
    golden = json.loads(GOLDEN.read_text())
    if machine() != golden["machine"]:
        pytest.skip(f"last bits depend on the machine: {machine()}, not {golden['machine']}")
    found = stable_digests(results)
    differ = {
        name for name in found | golden["results"] if found.get(name) != golden["results"].get(name)
    }
    assert differ == set(), (
        "if this is meant, say so in the changelog and run tests/helpers/golden.py"
    )


def means(verdict, metric):
    return {row["name"]: row["metrics"][metric]["mean"] for row in verdict["rows"]}


def test_every_condition_of_the_block_is_judged(verdict):
    cohort = verdict["cohort"]
    assert (cohort["n_conditions"], cohort["n_lines"], cohort["n_drugs"]) == (24, 2, 4)
    assert cohort["dropped"] == []


@pytest.mark.parametrize("metric", ["pearson_delta", "pds_cosine"])
def test_the_transformer_beats_doing_nothing_and_the_line_s_mean(verdict, metric):
    found = means(verdict, metric)
    assert found["pertsets"] > found["context_mean"] + 0.1
    assert found["pertsets"] > found["no_change"] + 0.1


def test_doing_nothing_scores_as_the_floor(verdict):
    assert abs(means(verdict, "pearson_delta")["no_change"]) < 0.1
    assert abs(means(verdict, "pds_cosine")["no_change"] - 0.5) < 0.15


def test_the_strongest_baseline_is_the_one_it_is_compared_with(verdict):
    (comparison,) = (c for c in verdict["comparisons"] if c["metric"] == "pearson_delta")
    assert comparison["model"] == "pertsets"
    assert comparison["against"] == "perturbation_mean"
    assert comparison["low"] < comparison["difference"] < comparison["high"]
