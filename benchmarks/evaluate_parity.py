"""Both command lines on one pair, and what differs between their tables, for `evaluate.py`."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from evaluate_pairs import CONTROL, EMBEDDING, LABEL, LINE, Pair
from evaluate_ties import Ties, read_de
from scipy import sparse

from statetx.evaluation.cell_eval.clustering import why_absent
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.scores.differential_expression import compare
from statetx.evaluation.standalone.cells_file import log_normalised

ABSENT = "clustering_agreement"
"""The column that is ours only with the extra `clustering`; never timed."""
ALLOWED, ALLOWED_FOLD = 1e-6, 2e-5
"""Absolute differences; the second where float32 input enters fold changes (pdex sums in float32)."""
COUNTS = ("count", "null_count")
OF_MEANS = ("log2_fold_change", "percent_change (relative)")
OF_FOLDS = ("overlap_at_", "precision_at_", "de_direction_match", "de_spearman_lfc_sig")
THREADS = 2
DE_COLUMNS = ("statistic", "p_value", "fdr", "log2_fold_change", "percent_change")


def environment() -> dict[str, str]:
    """Return the environment of the peer: its own packages only."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class Peer:
    """`peer_cell_eval.py` in the peer's environment: answers requests."""

    def __init__(self, python: Path, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("peer_cell_eval.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment(),
        )

    @staticmethod
    def there(python: Path) -> bool:
        """Whether the environment exists and has cell-eval."""
        command = [str(python), "-c", "import cell_eval"]
        return python.exists() and not subprocess.run(command, capture_output=True).returncode

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the peer failed at {request}:\n{self._log.read_text()[-2000:]}")
        return dict(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def our_command(pred: Path, real: Path, out: Path, *options: str) -> list[str]:
    """Return the command line of ours."""
    return [
        *(str(Path(sys.executable).with_name("statetx")), "evaluate"),
        *("--pred", str(pred), "--real", str(real), "--out", str(out)),
        *("--pert-col", LABEL, "--control-pert", CONTROL, *options),
    ]


def peer_arguments(
    pred: Path, real: Path, out: Path, *options: str, skip: str = "", clustered: bool = False
) -> list[str]:
    """Return the arguments of cell-eval's command line."""
    return [
        *("run", "--adata-pred", str(pred), "--adata-real", str(real), "--outdir", str(out)),
        *("--pert-col", LABEL, "--control-pert", CONTROL, "--num-threads", str(THREADS)),
        *("--skip-metrics", ",".join(filter(None, ["" if clustered else ABSENT, skip])), *options),
    ]


@dataclass(frozen=True)
class Difference:
    """What one column of one table differs by.

    Attributes
    ----------
    table, column
        results, agg_results or de; its column.
    values
        How many numbers were compared.
    largest
        Largest absolute difference of numbers; NaN if none were compared.
    where
        Row of the largest difference, or of the first that only one side has.
    disagree
        Values of which only one side is empty or NaN; -1: the column is on one side only.
    tied
        Values left out of `largest`: a tie of fold changes lies across the cut of a ranked list.
    note
        What the peer says about it.
    in_float64
        Largest difference from the peer's answer to the same values in float64; NaN: not asked.
    """

    table: str
    column: str
    values: int
    largest: float
    where: str
    disagree: int
    tied: int = 0
    note: str = ""
    in_float64: float = math.nan


def read(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Read a table: names of its columns, row name -> values as written."""
    with path.open(newline="", encoding="utf-8") as handle:
        header, *rows = csv.reader(handle)
    return header[1:], {row[0]: row[1:] for row in rows}


def tables_differ(
    ours: Path, peer: Path, table: str, tied: Callable[[str, str], bool]
) -> Iterator[Difference]:
    """Compare two CSVs column by column; `tied(row, column)` says whether a value is ambiguous."""
    columns, rows = read(ours)
    their_columns, their_rows = read(peer)
    if list(rows) != list(their_rows):
        yield Difference(table, "(rows)", 0, math.nan, f"{list(rows)} {list(their_rows)}", -1)
    if [x for x in columns if x in their_columns] != [x for x in their_columns if x in columns]:
        yield Difference(table, "(order of columns)", 0, math.nan, "", -1)
    for column in dict.fromkeys([*columns, *their_columns]):
        if column not in their_columns:
            held = {row[columns.index(column)] for name, row in rows.items() if name not in COUNTS}
            yield Difference(table, column, 0, math.nan, f"only ours: {sorted(held)[:3]}", -1)
            continue
        if column not in columns:
            yield Difference(table, column, 0, math.nan, "only theirs", -1)
            continue
        at, there = columns.index(column), their_columns.index(column)
        values, largest, where, disagree, ties = 0, 0.0, "", 0, 0
        for label in [label for label in rows if label in their_rows]:
            a, b = rows[label][at], their_rows[label][there]
            if a in ("", "NaN") or b in ("", "NaN"):
                if a != b:
                    disagree += 1
                    where = f"{label}: {a or 'empty'}, theirs {b or 'empty'}"
                continue
            values += 1
            off = abs(float(a) - float(b))
            if off > ALLOWED and tied(label, column):
                ties += 1
            elif off > largest:
                largest = off
                where = where if disagree else f"{label}: {a}, theirs {b}"
        yield Difference(table, column, values, largest, where, disagree, ties)


def de_differs(
    cells: Any, genes: Sequence[str], labels: np.ndarray, peer: Path
) -> list[Difference]:
    """Compare our differential expression of one side with the peer's CSV."""
    frame = read_de(peer)
    names = sorted(set(frame["target"]))
    out = []
    if names != (tested := sorted(set(labels) - {CONTROL})):
        missing = sorted(set(tested) ^ set(names))
        out.append(Difference("de", "(labels)", 0, math.nan, f"on one side only: {missing}", -1))
    control = SortedControl.from_cells(cells[labels == CONTROL])
    ours = compare(((name, cells[labels == name]) for name in names), control, genes)
    position = {name: i for i, name in enumerate(names)}
    frame = frame.assign(order=frame["target"].map(position)).sort_values("order", kind="stable")
    for column in DE_COLUMNS:
        a = getattr(ours, column).ravel()
        b = frame[column].astype(float).to_numpy()
        scale = {"p_value": np.maximum(np.abs(b), 1e-300), "percent_change": 1 + np.abs(b)}
        with np.errstate(invalid="ignore"):
            off = np.where(a == b, 0.0, np.abs(a - b) / scale.get(column, 1.0))
        disagree = int((np.isfinite(a) != np.isfinite(b)).sum())
        worst = int(np.nanargmax(off))
        gene = f"{frame['target'].iloc[worst]}/{frame['feature'].iloc[worst]}"
        where = f"{gene}: {a[worst]}, theirs {b[worst]}"
        title = column + (" (relative)" if column in scale else "")
        out.append(Difference("de", title, off.size, float(np.nanmax(off)), where, disagree))
    return out


def sides(pair: Pair) -> Iterator[tuple[str, str, Any, np.ndarray, list[str]]]:
    """Yield side, line, log1p values, labels and genes."""
    for side, data in (("real", pair.real), ("pred", pair.pred)):
        lines = data.obs[LINE].to_numpy()
        for line in sorted(set(lines)) if pair.by_line else [""]:
            rows = np.flatnonzero(lines == line) if line else np.arange(len(lines))
            matrix = data.X.tocsr() if sparse.issparse(data.X) else data.X
            matrix = matrix[rows]
            if matrix.dtype == np.float16:
                matrix = matrix.astype(np.float32)
            if pair.counts:
                matrix = log_values(matrix)
            yield (
                side,
                line,
                matrix,
                data.obs[LABEL].to_numpy(dtype=object)[rows],
                [str(gene) for gene in data.var_names],
            )


def compared(pair: Pair, folder: Path, peer: Peer) -> list[Difference]:
    """Run both command lines on a pair and compare everything they write."""
    folder.mkdir()
    write(pair, folder)
    options = ["--profile", pair.profile]
    options += ["--celltype-col", LINE] if pair.by_line else []
    options += ["--embed-key", EMBEDDING] if pair.embedded else []
    scale = ["--scale", "counts"] if pair.counts else []
    files = folder / "pred.h5ad", folder / "real.h5ad"
    command = our_command(*files, folder / "ours", *options, *scale)
    done = subprocess.run(command, capture_output=True, text=True)
    both = partial(peer_arguments, *files, clustered=why_absent() is None)
    answer = peer.ask(do="command", arguments=both(folder / "peer", *options))
    if done.returncode or answer["error"]:
        said = done.stderr.strip().splitlines()[-3:] if done.returncode else ["fine"]
        note = f"ours: {' '.join(said)} | theirs: {answer['error'] or 'fine'}"
        return [Difference("(run)", "", 0, math.nan, "", -1, note=note)]
    out = outputs_differ(folder / "ours", folder / "peer", pair)
    for side, line, matrix, labels, genes in sides(pair):
        name = line.replace("/", "-")
        theirs = folder / "peer" / (f"{name}_{side}_de.csv" if name else f"{side}_de.csv")
        if theirs.exists():
            out += de_differs(matrix, genes, labels, theirs)
    found = [replace(one, note=_said(answer["failed"], one.column)) for one in worst(out)]
    if pair.single and not all(is_same(one, True) for one in found):
        write(in_float64(pair), folder)
        again = both(folder / "peer64", *options)
        peer.ask(do="command", arguments=again)
        exact = worst(outputs_differ(folder / "ours", folder / "peer64", pair))
        largest = {(one.table, one.column): one.largest for one in exact if not one.disagree}
        found = [
            replace(one, in_float64=largest.get((one.table, one.column), math.nan)) for one in found
        ]
    return found


def in_float64(pair: Pair) -> Pair:
    """Return the same values in float64; of counts their log1p values."""
    sides = []
    for data in (pair.real, pair.pred):
        copy = data.copy()
        values = log_values(data.X) if pair.counts else data.X
        copy.X = values.astype(np.float64)
        sides.append(copy)
    return replace(pair, real=sides[0], pred=sides[1], counts=False)


def log_values(counts: Any) -> Any:
    """Return the log1p values that ours scores."""
    totals = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    some = totals if sparse.issparse(counts) else totals[totals > 0]
    return log_normalised(counts, float(np.median(some)))


def _said(failed: Sequence[str], column: str) -> str:
    return next((text for text in failed if f"'{column}'" in text), "")


def write(pair: Pair, folder: Path) -> None:
    """Write both sides."""
    for side, data in (("real", pair.real), ("pred", pair.pred)):
        data.write_h5ad(folder / f"{side}.h5ad")


def outputs_differ(ours: Path, peer: Path, pair: Pair | None = None) -> list[Difference]:
    """Compare the tables that both command lines wrote; `pair`: None for one line, in float32."""
    width = ALLOWED_FOLD if pair is None or pair.single else ALLOWED
    out = []
    for line in sorted(set(pair.real.obs[LINE])) if pair is not None and pair.by_line else [""]:
        home = ours / line.replace("/", "-")
        prefix = f"{line.replace('/', '-')}_" if line else ""
        tied = Ties(peer / f"{prefix}real_de.csv", peer / f"{prefix}pred_de.csv", width)
        results = list(
            tables_differ(home / "results.csv", peer / f"{prefix}results.csv", "results", tied)
        )
        ties = {one.column for one in results if one.tied}
        out += results
        out += tables_differ(
            home / "agg_results.csv",
            peer / f"{prefix}agg_results.csv",
            "agg_results",
            partial(_among, ties),
        )
    return out


def _among(columns: set[str], _: str, column: str) -> bool:
    return column in columns


def worst(found: Sequence[Difference]) -> list[Difference]:
    """Put the lines and sides of each column together."""
    out: dict[tuple[str, str], Difference] = {}
    for one in found:
        key = (one.table, one.column)
        old = out.setdefault(key, one)
        if old is one:
            continue
        later = one if one.disagree or (one.largest > old.largest and not old.disagree) else old
        out[key] = replace(
            old,
            values=old.values + one.values,
            largest=max(old.largest, one.largest),
            where=later.where,
            disagree=-1 if -1 in (old.disagree, one.disagree) else old.disagree + one.disagree,
            tied=old.tied + one.tied,
        )
    return list(out.values())


def is_same(one: Difference, single: bool) -> bool:
    """Whether two columns agree, ties aside."""
    limit = ALLOWED
    if one.table == "de":
        limit = 0.0 if one.column == "statistic" else limit
        limit = ALLOWED_FOLD if single and one.column in OF_MEANS else limit
    elif single and one.column.startswith(OF_FOLDS):
        limit = ALLOWED_FOLD
    return one.disagree == 0 and not one.largest > limit


def verdict(one: Difference, pair: Pair) -> str:
    """Say in a few words how a column compares."""
    if is_same(one, pair.single):
        return "same but for ties" if one.tied else "same"
    if one.disagree == -1 and one.where.startswith("only ours"):
        empty = one.where in ("only ours: ['']", "only ours: ['NaN']", "only ours: ['', 'NaN']")
        if one.note or (one.table == "agg_results" or empty):
            return "no such column there"
    if one.column in (pair.documented or {}):
        return "documented"
    # Other precision makes other ties of counts: there it excuses the energy distances only.
    if one.in_float64 <= ALLOWED and (one.column == "pearson_edistance" or not pair.counts):
        return "their float32"
    return "DIFFERS"
