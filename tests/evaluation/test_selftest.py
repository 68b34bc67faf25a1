"""The self-test passes, and finds every metric that is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from statetx.evaluation import selftest
from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.cell_eval import de_columns
from statetx.evaluation.scores import conditions as scores
from statetx.evaluation.scores import energy_and_mmd as distances
from statetx.evaluation.scores.columns import COLUMNS
from statetx.evaluation.selftest import EXPECTED, Screen


@pytest.fixture(scope="module")
def screen() -> Screen:
    found = Screen(0)
    _ = found.predictions
    return found


def failed(monkeypatch: pytest.MonkeyPatch, screen: Screen, columns: set[str]) -> set[str]:
    """Columns that fail, of the checks of some columns."""
    monkeypatch.setattr(selftest, "Screen", lambda _: screen)
    chosen = [check for check in EXPECTED if set(check[0].split("/")) & columns]
    monkeypatch.setattr(selftest, "EXPECTED", chosen)
    return {check.column for check in selftest.selftest() if not check.passed}


@pytest.mark.parametrize("seed", [0, 1])
def test_all_is_as_planted(seed: int) -> None:
    assert [check for check in selftest.selftest(seed) if not check.passed] == []


def test_every_column_is_checked() -> None:
    checked = {name for column, *_ in EXPECTED for name in column.split("/")}
    assert set(COLUMNS) - checked == {"dose_rho", "dose_rho_real"}  # seen through dose_response
    unjudged = ("de_nsig", "clustering_agreement")  # counts, and what is not there everywhere
    theirs = {name for name in cell_eval.columns("full") if not name.startswith(unjudged)}
    repeated = {f"{kind}_at_{k}" for kind in ("overlap", "precision") for k in (50, 100, 200, 500)}
    assert theirs - checked == repeated


def _wrong_scores(change: Callable[[dict[str, Any]], None]) -> Callable[[Any], None]:
    """Break what stands in the rows of scores."""

    def break_it(monkeypatch: Any) -> None:
        right = scores.agreement

        def wrong(*arguments: Any) -> Any:
            found = right(*arguments)._asdict()
            change(found)
            return type(right(*arguments))(**found)

        monkeypatch.setattr(scores, "agreement", wrong)

    return break_it


def _patch(place: Any, name: str, wrong: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda monkeypatch: monkeypatch.setattr(place, name, wrong(getattr(place, name)))


def _swap(values: dict[str, Any], name: str, new: Any) -> None:
    values[name] = new


BROKEN: dict[str, tuple[Callable[[Any], None], set[str], set[str]]] = {
    "correlation of absolute deltas": (
        _patch(scores, "pearson", lambda f: lambda x, y: f(np.abs(x), np.abs(y))),
        {"pearson_delta"},
        {"pearson_delta"},
    ),
    "discrimination upside down": (
        _patch(scores, "discrimination", lambda f: lambda p, r: 1 - f(p, r)),
        {"pds_cosine"},
        {"pds_cosine"},
    ),
    "energy without the spread of the prediction": (
        _patch(
            distances.Sample,
            "within",
            lambda f: lambda self, statistic: f(self, statistic) * (0.5 if len(self) else 1),
        ),
        {"energy", "mmd"},
        {"energy", "mmd"},
    ),
    "sampling noise left in": (
        _patch(scores, "_squared", lambda f: lambda x, y: f(x, y) + 10.0),
        {"mse_unbiased"},
        {"mse_unbiased/mse_control"},
    ),
    "direction without signs": (
        _wrong_scores(lambda found: _swap(found, "fidelity", np.ones_like(found["fidelity"]))),
        {"direction_fidelity"},
        {"direction_fidelity"},
    ),
    "overlap that never misses": (
        _wrong_scores(lambda found: _swap(found, "overlap", np.ones_like(found["overlap"]))),
        {"de_overlap"},
        {"de_overlap"},
    ),
    "fold changes without signs": (
        _wrong_scores(lambda found: _swap(found, "lfc_nmae", np.abs(found["lfc_nmae"] - 1))),
        {"lfc_nmae"},
        {"lfc_nmae"},
    ),
    "correlation coefficient of the wrong sign": (
        _wrong_scores(lambda found: _swap(found, "mcc", -found["mcc"])),
        {"de_mcc"},
        {"de_mcc"},
    ),
    "curve below the diagonal": (
        _patch(de_columns, "average_precision", lambda f: lambda y, s: f(y, -s)),
        {"pr_auc"},
        {"pr_auc"},
    ),
    "predicted controls on the wrong side": (
        _patch(cell_eval, "pearson", lambda f: lambda x, y: -f(x, y)),
        {"pearson_delta_cell_eval"},
        {"pearson_delta_cell_eval"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch, screen: Screen
) -> None:
    break_it, columns, expected = BROKEN[name]
    break_it(monkeypatch)
    assert expected <= failed(monkeypatch, screen, columns)
