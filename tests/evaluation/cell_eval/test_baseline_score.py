"""cell-eval's score of one aggregate table against another."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cell_eval_fixture import EXPECTED

from statetx.core.errors import DataError
from statetx.evaluation.cell_eval import tables
from statetx.evaluation.cell_eval.baseline_score import score_against

USER = EXPECTED / "cell_eval_agg_results.csv"


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """Statistics of the prediction with exchanged labels."""
    with (EXPECTED / "cell_eval_results_relabelled.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    names = [name for name in rows[0] if name != "perturbation"]
    columns = {name: [float(row[name]) if row[name] else None for row in rows] for name in names}
    tables.write_aggregate(columns, tmp_path / "baseline.csv")
    return tmp_path / "baseline.csv"


def test_every_number(baseline: Path, tmp_path: Path) -> None:
    table = score_against(USER, baseline, tmp_path / "score.csv")
    expected = pd.read_csv(EXPECTED / "cell_eval_score.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "score.csv"), expected, rtol=1e-12)
    pd.testing.assert_frame_equal(table, expected, rtol=1e-12)
    assert table["metric"].tolist()[:4] == ["mse", "mae", "mse_delta", "mae_delta"]
    assert table["metric"].iloc[-1] == "avg_score"


def write(path: Path, **columns: float | str) -> Path:
    row = pd.DataFrame({"statistic": ["mean"], **{k: [v] for k, v in columns.items()}})
    row.to_csv(path, index=False)
    return path


def test_rules(tmp_path: Path, caplog) -> None:
    user = write(
        tmp_path / "u.csv", mine=1, roc_auc=0.4, mae=0.5, pr_auc="NaN", mse=3, de_nsig_counts_real=7,
        pearson_delta="", overlap_at_N=0.75, precision_at_N=1,
    )  # fmt: skip
    base = write(
        tmp_path / "b.csv", mine=2, roc_auc=0.5, mae=0.0, pr_auc=0.5, mse=4, de_nsig_counts_real=9,
        pearson_delta=0.1, overlap_at_N=0.5, precision_at_N=1,
    )  # fmt: skip
    got = score_against(user, base).set_index("metric")["from_baseline"]
    assert got.index.tolist() == [
        "mae", "mse", "roc_auc", "pr_auc", "pearson_delta", "overlap_at_N", "precision_at_N",
        "avg_score",
    ]  # fmt: skip
    # Error of a baseline without error, worse, NaN, empty, 0 of 0: nothing.
    np.testing.assert_allclose(got, [0, 0.25, 0, 0, 0, 0.5, 0, 0.75 / 7])
    assert "column mine is not a metric" in caplog.text


def test_profiles_without_errors(tmp_path: Path) -> None:
    user, base = (
        write(tmp_path / f"{value}.csv", discrimination_score_l1=value) for value in (0.9, 0.5)
    )
    assert score_against(user, base)["from_baseline"].tolist() == pytest.approx([0.8, 0.8])


def test_bad_tables(baseline: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few.csv", mae=1.0, mine=2.0)
    with pytest.raises(DataError, match=r"the columns differ: .*'mse'.*'mine' only in") as caught:
        score_against(USER, few)
    assert "same profile" in caught.value.fix
    turned = write(tmp_path / "turned.csv", mine=2.0, mae=1.0)
    with pytest.raises(DataError, match="their order differs"):
        score_against(few, turned)
    with pytest.raises(DataError, match="no row 'median'") as caught:
        score_against(USER, baseline, statistic="median")
    assert "did you mean" in caught.value.fix or "known: 'count'" in caught.value.fix
    with pytest.raises(DataError, match="no column 'statistic'") as caught:
        score_against(EXPECTED / "cell_eval_results.csv", baseline)
    assert "agg_results.csv" in caught.value.fix
    with pytest.raises(DataError, match="no column can be scored"):
        score_against(*[write(tmp_path / "none.csv", mine=1.0)] * 2)
    with pytest.raises(DataError, match="does not have one number per column"):
        score_against(*[write(tmp_path / "text.csv", mae="good")] * 2)
    for text in ("", "\x00"):
        (tmp_path / "broken.csv").write_text(text)
        with pytest.raises(DataError, match=r"cannot read|no column"):
            score_against(tmp_path / "broken.csv", baseline)
    with pytest.raises(DataError, match="cannot read"):
        score_against(tmp_path / "absent.csv", baseline)
