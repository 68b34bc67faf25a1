"""Score an aggregate table against a baseline's (0) and perfect values (1), as cell-eval does."""

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
    """Score an ``agg_results.csv`` against that of a baseline, like cell-eval's ``score``.

    A metric whose best value is 0 scores 1 - user / baseline. A metric whose best value is 1 scores
    (user - baseline) / (1 - baseline). As in cell-eval, a metric that is undefined or worse than
    the baseline scores 0, and scores above 1 are not clipped. Counts of genes have no score.

    Parameters
    ----------
    user, baseline
        Aggregate tables, ours or cell-eval's, with the same columns.
    out
        CSV file to write; None: write no file.
    statistic
        The row that is compared.

    Returns
    -------
    pandas.DataFrame
        Columns ``metric`` and ``from_baseline``: errors first, then the other metrics, each in the
        order of the columns. The last row, ``avg_score``, is their mean.

    Raises
    ------
    DataError
        A file is not an aggregate table, the columns differ, the row is missing, or no column can
        be scored.
    """
    scored, base = (_Aggregate(Path(path)) for path in (user, baseline))
    if scored.columns != base.columns:
        only = [
            [x for x in a.columns if x not in b.columns]
            for a, b in ((scored, base), (base, scored))
        ]
        differences = [
            f"{', '.join(map(repr, names))} only in {table.path}"
            for names, table in zip(only, (scored, base), strict=True)
            if names
        ]
        raise DataError(
            "the columns differ: " + ("; ".join(differences) or "their order differs"),
            where=f"{scored.path} against {base.path}",
            fix="score both predictions with the same profile and the same skipped metrics",
        )
    for name in scored.columns:
        if name not in (*PROFILES["full"], *WITHOUT_BEST):
            log.warning("column %s is not a metric of cell-eval: it gets no score", name)
    metrics = [x for x in scored.columns if x in PROFILES["full"] and x not in WITHOUT_BEST]
    if not metrics:
        raise DataError(
            "no column can be scored",
            where=scored.path,
            fix=f"known: {', '.join(PROFILES['full'])}",
        )
    errors = [name for name in metrics if name in BEST_IS_ZERO]
    others = [name for name in metrics if name not in BEST_IS_ZERO]
    values, reference = scored.row(statistic), base.row(statistic)
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
    """An aggregate table, as ``agg_results.csv`` holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        table = read_table(path, WANTED)
        header = list(table.columns)
        if "statistic" not in header:
            per_label = header[:1] == ["perturbation"]
            raise DataError(
                "no column 'statistic'",
                where=path,
                fix="this is the table of perturbations: give the agg_results.csv of the same "
                "directory"
                if per_label
                else f"an aggregate table has the rows {', '.join(STATISTICS)}",
            )
        self.columns = [name for name in header if name != "statistic"]
        rows = zip(*(table[name] for name in self.columns), strict=True)
        self._rows = dict(zip(table["statistic"], rows, strict=False))

    def row(self, statistic: str) -> dict[str, np.float64]:
        """Return the values of a row; an empty cell is NaN.

        Parameters
        ----------
        statistic
            Name of the row.

        Raises
        ------
        DataError
            The row is missing or does not have one number per column.
        """
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
                f"the row does not have one number per column: {error}",
                where=f"{self.path}, row {statistic!r}",
            ) from error
