"""The conditions that all models of an experiment are judged on, and their scores side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from statetx.config import BASELINES
from statetx.core.documents import Wanted
from statetx.core.errors import ResultsError, did_you_mean
from statetx.core.records import verify
from statetx.evaluation.scores.columns import COLUMNS, DROPPED, IDENTITY, SCORED_ZERO, parse_note
from statetx.shared.tables import read_table

KEY = ["split", "line", "perturbation"]
TEXT = ("line", "perturbation", "drug", "note")
WANTED = Wanted("the scores", ResultsError, "run the evaluate stage again")
REFERENCES = ("floor", "mean_response", "interpolated_duplicate", "ceiling")
"""Names and roles of the references; each is a file ``<name>.csv``."""
OPTIONAL_ENDS = ("mean_response", "interpolated_duplicate")
"""A verdict needs a floor and a ceiling; the dynamic range needs these too."""
ROLES = ("floor", "mean_response", "baseline", "model", "interpolated_duplicate", "ceiling")
"""In the order of the rows."""


@dataclass(frozen=True)
class RunScores:
    """Scores of one run in one line: split, model, its kind, seed, line, path of scores.csv."""

    split: str
    model: str
    kind: str
    seed: int
    line: str
    path: Path


@dataclass(frozen=True)
class RefScores:
    """Reference of one line: split, line, directory of floor.csv and the other `REFERENCES`."""

    split: str
    line: str
    directory: Path


@dataclass(frozen=True)
class Contender:
    """One row of the verdict.

    Attributes
    ----------
    name, role, kind, seed
        Role is one of `ROLES`; references have neither kind nor seed. A model without seed is the mean
        over its seeds.
    table
        Scores, one row per condition, rows as `Cohort.conditions`.
    """

    name: str
    role: str
    kind: str | None
    seed: int | None
    table: pd.DataFrame

    def undefined(self, column: str) -> int:
        """Count the conditions that score 0 because the prediction left them undefined."""
        return sum(note.get(column) == SCORED_ZERO for note in self.table["note"].map(parse_note))

    def is_seed_of(self, other: Contender) -> bool:
        """Whether this is one seed of the model that `other` is the mean of."""
        return self.role == "model" and self.name == other.name and self.seed is not None


@dataclass(frozen=True)
class Cohort:
    """All contenders on the same conditions.

    Attributes
    ----------
    conditions
        ``split, line, perturbation, drug``, one row per scored condition.
    contenders
        References, baselines and models, by role.
    dropped
        Conditions on which no model is judged: split, line, perturbation, reason.
    """

    conditions: pd.DataFrame
    contenders: list[Contender]
    dropped: list[dict[str, str]]

    def with_role(self, *roles: str) -> list[Contender]:
        """Contenders of some roles."""
        return [one for one in self.contenders if one.role in roles]


def _read(path: Path, split: str, line: str) -> pd.DataFrame:
    table = read_table(verify(path), WANTED)
    missing = [name for name in (*IDENTITY, *COLUMNS, "note") if name not in table]
    if missing or set(table["line"]) - {line}:
        raise ResultsError(
            f"no column {missing[0]!r}" if missing else f"these are not scores of {line!r}",
            where=path,
            fix="run the evaluate stage again",
        )
    table.insert(0, "split", split)
    for name in table.columns.difference(["split", *TEXT]):
        table[name] = _numbers(table[name], path)
    return table


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    """Return a column of a CSV as numbers, with every digit; empty is NaN."""
    try:
        return pd.Series([float(text) if text else np.nan for text in column], dtype=np.float64)
    except ValueError as error:
        raise WANTED.error(f"column {column.name!r}: {error}", path) from error


def gather(runs: Sequence[RunScores], references: Sequence[RefScores]) -> Cohort:
    """Read all scores and line them up.

    Raises
    ------
    ResultsError
        A file is missing, or runs were scored on different conditions.
    """
    if not runs:
        raise ResultsError("there are no runs to judge", fix="name models in the experiment")
    groups: dict[tuple[str, str, str | None, int | None], list[pd.DataFrame]] = {}
    for reference in REFERENCES:
        found = [verify(ref.directory / f"{reference}.csv").is_file() for ref in references]
        if reference in OPTIONAL_ENDS and not any(found):
            continue
        groups[reference, reference, None, None] = [
            _read(ref.directory / f"{reference}.csv", ref.split, ref.line) for ref in references
        ]
    for run in runs:
        role = "baseline" if run.kind in BASELINES else "model"
        own = groups.setdefault((run.model, role, run.kind, run.seed), [])
        own.append(_read(run.path, run.split, run.line))
    tables = {
        who: pd.concat(parts).set_index(KEY).sort_index()
        for who, parts in sorted(groups.items(), key=lambda item: ROLES.index(item[0][1]))
        if parts
    }
    first_name, first = next((who[0], t) for who, t in tables.items() if who[3] is not None)
    for who, table in tables.items():
        differ = first.index.symmetric_difference(table.index)
        if len(differ) or not table.index.is_unique:
            odd = differ[0] if len(differ) else table.index[table.index.duplicated()][0]
            raise ResultsError(
                f"{who[0]!r} and {first_name!r} were not scored on the same conditions: "
                f"{' / '.join(odd)} is in one of them only",
                fix=did_you_mean(odd[2], first.index.get_level_values("perturbation").unique())
                + " Run the evaluate stage again for both",
            )
    dropped = []
    keep = np.ones(len(first), dtype=bool)
    for i, (key, note) in enumerate(first["note"].map(parse_note).items()):
        if DROPPED in note:
            keep[i] = False
            values = dict(zip(KEY, map(str, key), strict=True))  # type: ignore[call-overload]
            dropped.append({**values, "reason": note[DROPPED]})
    contenders: list[Contender] = []
    for who, table in tables.items():
        contenders.append(Contender(*who, table[keep].reset_index()))
        last = [one for one in contenders if (one.role, one.name) == ("model", who[0])]
        more = [other for other in tables if other[:2] == who[:2]]
        if who[1] == "model" and len(last) == len(more) > 1:
            contenders.append(_mean_over_seeds(last))
    return Cohort(first[keep].reset_index()[[*KEY, "drug"]], contenders, dropped)


def _mean_over_seeds(seeds: Sequence[Contender]) -> Contender:
    """Return the mean of every score of a condition; undefined where it is for one of the seeds."""
    one = seeds[0]
    table = one.table.copy()
    for column in COLUMNS:
        table[column] = np.mean([each.table[column].to_numpy(dtype=float) for each in seeds], 0)
    table["note"] = ""
    return Contender(one.name, one.role, one.kind, None, table)
