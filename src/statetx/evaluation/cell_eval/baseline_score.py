"""cell-eval's ``score``: an aggregate table as a share of the way from a baseline's to perfect."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd

from statetx.core.documents import Wanted
from statetx.core.errors import DataError, did_you_mean
from statetx.evaluation.cell_eval.columns import PROFILES
from statetx.evaluation.cell_eval.tables import STATISTICS, write_score
from statetx.shared.tables import read_table

log = logging.getLogger(__name__)

WANTED = Wanted("the aggregate table", DataError, "give an agg_results.csv, ours or cell-eval's")
BEST_IS_ZERO = ("mse", "mae", "mse_delta", "mae_delta")
WITHOUT_BEST = ("de_nsig_counts_real", "de_nsig_counts_pred")


def score_against(
    user: str | Path,
    baseline: str | Path,
    out: str | Path | None = None,
    statistic: str = "mean",
) -> pd.DataFrame:
    """Score an ``agg_results.csv`` against a baseline's.

    A metric whose best is 0 scores 1 - user / baseline, one whose best is 1 scores
    (user - baseline) / (1 - baseline). As in cell-eval, what is undefined or worse than the
    baseline scores 0 and nothing is clipped above; counts of genes have no score.

    Parameters
    ----------
    user, baseline
        The aggregate tables, ours or cell-eval's, with the same columns.
    out
        CSV to write.
    statistic
        The row that is compared.

    Returns
    -------
    ``metric`` and ``from_baseline``: errors first, then the others, each in the order of the
    columns; the last row, ``avg_score``, is their mean.

    Raises
    ------
    DataError
        A file is no aggregate table, the columns differ, the row is missing, or nothing is left
        to score.
    """
    own, other = (_Aggregate(Path(path)) for path in (user, baseline))
    if own.columns != other.columns:
        alone = [
            [x for x in a.columns if x not in b.columns] for a, b in ((own, other), (other, own))
        ]
        told = [
            f"{', '.join(map(repr, names))} only in {side.path}"
            for names, side in zip(alone, (own, other), strict=True)
            if names
        ]
        raise DataError(
            "the columns differ: " + ("; ".join(told) or "they stand in another order"),
            where=f"{own.path} against {other.path}",
            fix="score both predictions with the same profile and the same skipped metrics",
        )
    for name in own.columns:
        if name not in (*PROFILES["full"], *WITHOUT_BEST):
            log.warning("column %s is no metric of cell-eval: it has no score", name)
    metrics = [x for x in own.columns if x in PROFILES["full"] and x not in WITHOUT_BEST]
    if not metrics:
        raise DataError(
            "no column can be scored", where=own.path, fix=f"known: {', '.join(PROFILES['full'])}"
        )
    errors = [name for name in metrics if name in BEST_IS_ZERO]
    others = [name for name in metrics if name not in BEST_IS_ZERO]
    values, reference = own.row(statistic), other.row(statistic)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [1.0 - values[name] / reference[name] for name in errors]
        shares += [(values[name] - reference[name]) / (1.0 - reference[name]) for name in others]
    scores = [0.0 if math.isnan(share) else max(float(share), 0.0) for share in shares]
    names = [*errors, *others, "avg_score"]
    scores.append(float(np.mean(scores)))
    if out is not None:
        write_score(names, scores, Path(out))
    return pd.DataFrame({"metric": names, "from_baseline": scores})


class _Aggregate:
    """An ``agg_results.csv``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        table = read_table(path, WANTED)
        header = list(table.columns)
        if "statistic" not in header:
            per_label = header[:1] == ["perturbation"]
            raise DataError(
                "no column 'statistic'",
                where=path,
                fix="this is the table of perturbations: give agg_results.csv beside it"
                if per_label
                else f"an aggregate table has the rows {', '.join(STATISTICS)}",
            )
        self.columns = [name for name in header if name != "statistic"]
        rows = zip(*(table[name] for name in self.columns), strict=True)
        self._rows = dict(zip(table["statistic"], rows, strict=False))

    def row(self, statistic: str) -> dict[str, np.float64]:
        """Values of a row; an empty cell is NaN."""
        if statistic not in self._rows:
            raise DataError(
                f"no row {statistic!r}",
                where=self.path,
                fix=did_you_mean(statistic, self._rows),
            )
        row = self._rows[statistic]
        try:
            return {
                name: np.float64("nan" if text == "" else text)
                for name, text in zip(self.columns, row, strict=True)
            }
        except ValueError as error:
            raise DataError(
                f"not one number per column: {error}", where=f"{self.path}, row {statistic!r}"
            ) from error
