"""cell-eval's numbers on a fixture, to 1e-6, and its conventions."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from cell_eval_fixture import EXPECTED, GENES, GROUPS, RELABELLED, make, uniform
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from statetx.core.errors import ConfigError
from statetx.evaluation.cell_eval import clustering, de_columns, tables
from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.cell_eval.columns import Panel
from statetx.evaluation.numerics import correlation
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.scores.differential_expression import compare
from statetx.evaluation.scores.energy_and_mmd import energy

LABELS = [label for label in GROUPS if label != "ctrl"]


def side(values: np.ndarray, labels: np.ndarray) -> dict:
    control = values[labels == "ctrl"]
    cells = {label: values[labels == label] for label in LABELS}
    return {
        "": np.array([cells[p].mean(axis=0) for p in LABELS]),
        "_control": control.mean(axis=0),
        "_de": compare(cells.items(), SortedControl.from_cells(control), GENES),
        "_energy": np.array([energy(cells[p], control, "V") for p in LABELS]),
    }


@pytest.fixture(scope="module")
def panels() -> dict[str, Panel]:
    _, real, labels = make(predicted=False)
    _, pred, _ = make(predicted=True)
    renamed = np.array([RELABELLED.get(label, label) for label in labels], dtype=object)
    truth = {f"real{k}": v for k, v in side(real, labels).items()}
    return {
        name: Panel(
            labels=LABELS,
            genes=GENES,
            **truth,
            **{f"pred{k}": v for k, v in side(pred, told).items()},
        )
        for name, told in (("results", labels), ("results_relabelled", renamed))
    }


def read(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    with path.open(newline="") as handle:
        header, *rows = csv.reader(handle)
    return header, {row[0]: row[1:] for row in rows}


def assert_same_file(got: Path, expected: Path) -> float:
    absent = {"clustering_agreement"} if clustering.why_absent() else set()
    header, rows = read(got)
    expected_header, expected_rows = read(expected)
    assert header == [name for name in expected_header if name not in absent]
    assert list(rows) == list(expected_rows)
    worst = 0.0
    for label, values in expected_rows.items():
        wanted = [
            v for name, v in zip(expected_header[1:], values, strict=True) if name not in absent
        ]
        for name, a, b in zip(header[1:], rows[label], wanted, strict=True):
            assert (a in ("", "NaN")) == (b in ("", "NaN")), (label, name, a, b)
            if b in ("", "NaN"):
                assert a == b, (label, name)
            else:
                worst = max(worst, abs(float(a) - float(b)))
    return worst


def test_the_fixture_is_the_fixture() -> None:
    assert uniform(np.array([0]), np.array([0]), 11) == 0.9418259018566459
    assert uniform(np.array([5]), np.array([7]), 29) == 0.28842125879600644
    assert make(False)[0].sum() == 86491
    assert make(True)[0].sum() == 91499


@pytest.mark.parametrize("name", ["results", "results_relabelled"])
def test_every_number_of_both_predictions(panels, name: str, tmp_path: Path) -> None:
    got = cell_eval.evaluate(panels[name], cell_eval.columns("full"))
    assert len(got) == 27 + (clustering.why_absent() is None)
    tables.write_results(LABELS, got, tmp_path / "results.csv")
    worst = assert_same_file(tmp_path / "results.csv", EXPECTED / f"cell_eval_{name}.csv")
    assert worst < 1e-9


def test_every_statistic_of_the_aggregate(panels, tmp_path: Path) -> None:
    got = cell_eval.evaluate(panels["results"], cell_eval.columns("full"))
    tables.write_aggregate(got, tmp_path / "agg.csv")
    worst = assert_same_file(tmp_path / "agg.csv", EXPECTED / "cell_eval_agg_results.csv")
    assert worst < 1e-9


def test_differential_expression_rows(panels) -> None:
    frame = panels["results"].real_de.frame()
    header, *rows = list(csv.reader((EXPECTED / "cell_eval_real_de.csv").read_text().splitlines()))
    assert list(frame.columns) == header
    assert frame["target"].tolist() == [row[0] for row in rows]
    assert frame["feature"].tolist() == [row[1] for row in rows]
    expected = np.array([row[2:] for row in rows], dtype=float)
    np.testing.assert_allclose(frame[header[2:]].to_numpy(float), expected, rtol=1e-9, atol=1e-12)


def test_profiles_keep_the_order_and_refuse_others(panels) -> None:
    full = cell_eval.columns("full")
    for name in ("full", "de", "anndata", "minimal", "vcc", "pds"):
        chosen = cell_eval.columns(name)
        assert chosen == [column for column in full if column in chosen]
        assert list(cell_eval.evaluate(panels["results"], chosen)) == chosen
    assert len(cell_eval.columns("de")) == 18
    assert cell_eval.columns("minimal")[:4] == [
        "overlap_at_N",
        "precision_at_N",
        "de_nsig_counts_real",
        "de_nsig_counts_pred",
    ]
    assert not cell_eval.needs_de(cell_eval.columns("pds"))
    assert cell_eval.needs_de(cell_eval.columns("vcc"))
    assert not cell_eval.needs_energy(cell_eval.columns("minimal"))
    with pytest.raises(ConfigError, match="'fulll'") as caught:
        cell_eval.columns("fulll")
    assert "full" in caught.value.fix


def test_curves_against_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        positive = generator.random(60) < 0.3
        positive[:2] = True, False
        score = np.round(generator.random(60) + 0.4 * positive, 1)  # many ties
        np.testing.assert_allclose(
            de_columns.average_precision(positive, score), average_precision_score(positive, score)
        )
        np.testing.assert_allclose(
            de_columns.area_under_roc(positive, score), roc_auc_score(positive, score)
        )


def test_correlations_against_scipy() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    x[:3] = np.inf
    assert correlation.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert correlation.pearson(x[3:], y[3:]) == pytest.approx(
        stats.pearsonr(x[3:], y[3:]).statistic
    )
    assert math.isnan(correlation.pearson(np.full(5, 0.1), y[:5]))
    assert math.isnan(correlation.spearman(x[:1], y[:1]))


def test_a_prediction_equal_to_its_control_has_no_correlation(panels) -> None:
    panel = panels["results"]
    noise = 1e-16 * np.random.default_rng(0).normal(size=panel.real.shape)
    silent = Panel(
        labels=panel.labels,
        genes=panel.genes,
        real=panel.real,
        pred=panel.real_control + noise,
        real_control=panel.real_control,
        pred_control=panel.real_control,
    )
    got = cell_eval.evaluate(silent, cell_eval.columns("anndata" if silent.real_energy else "pds"))
    assert got["discrimination_score_l1"]
    assert all(math.isnan(v) for v in cell_eval.PROFILE_COLUMNS["pearson_delta"](silent))


def test_empty_is_skipped_and_nan_poisons() -> None:
    got = tables.describe([1.0, None, 3.0, 2.0])
    assert (got["count"], got["null_count"], got["mean"], got["std"]) == (3.0, 1.0, 2.0, 1.0)
    got = tables.describe([1.0, math.nan, 3.0])
    assert math.isnan(got["mean"])
    assert (got["min"], got["max"]) == (1.0, 3.0)
    assert (got["25%"], got["50%"]) == (3.0, 3.0)  # index round_half_up(0.5) = 1; NaN is last
    got = tables.describe([None, None])
    assert (got["count"], got["null_count"], got["mean"]) == (0.0, 2.0, None)
    assert tables.describe([5.0])["std"] is None
