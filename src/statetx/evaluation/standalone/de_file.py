"""Tables of differential expression beside other people's cells: read and written.

Somebody brings pdex's, or any with its columns; ours have pdex's columns too.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from statetx.core.errors import DataError, did_you_mean
from statetx.core.writes import whole
from statetx.evaluation.cell_eval.de_columns import Tests
from statetx.evaluation.scores.differential_expression import COLUMNS, DETable
from statetx.shared.tables import encoding, first_line, is_parquet, separator

log = logging.getLogger(__name__)

NUMBERS = ("log2_fold_change", "p_value", "fdr")
REQUIRED = ("target", "feature", *NUMBERS)
SIZE = "abs_log2_fold_change"
"""Optional; genes are ranked by it where a table has it, as in cell-eval."""

BLOCK = 50
"""Labels that are written at a time: 100,000 rows of 2,000 genes are 10 MB."""


@dataclass(frozen=True)
class SuppliedTable:
    """One file.

    Attributes
    ----------
    path
        Where it lies.
    table
        The columns that count.
    line_column
        The column with the cell line, if there are several.
    """

    path: Path
    table: pa.Table
    line_column: str | None

    @classmethod
    def read(cls, path: str | Path, line_column: str | None) -> SuppliedTable:
        """Read a CSV or parquet file.

        Parameters
        ----------
        path
            Parquet, or text separated by commas, semicolons or tabs.
        line_column
            Column with the cell line; None: the cells are of one.

        Raises
        ------
        DataError
            Unreadable, a column is missing, or a number is none.
        """
        path = Path(path)
        wanted = [*REQUIRED, *([line_column] if line_column else [])]
        try:
            names = _names(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"cannot read the differential expression: {error}",
                where=path,
                fix=f"a CSV or parquet file with {', '.join(REQUIRED)} is wanted",
            ) from error
        missing = [name for name in wanted if name not in names]
        if missing:
            raise DataError(
                f"no column {missing[0]!r}"
                + (": the cells are of several lines" if missing[0] == line_column else ""),
                where=path,
                fix=did_you_mean(missing[0], names),
            )
        kinds = {name: pa.float64() if name in NUMBERS else pa.string() for name in wanted}
        if SIZE in names:
            kinds[SIZE] = pa.float64()
        try:
            return cls(path, _columns(path, kinds), line_column)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"a row cannot be read: {error}",
                where=path,
                fix=f"{', '.join(x for x in kinds if kinds[x] == pa.float64())} hold numbers, inf, NaN "
                "or nothing",
            ) from error

    def spelt(self, find: Callable[[str], str | None]) -> SuppliedTable:
        """Return the same with targets in the spelling that `find` gives."""
        known = self.table["target"].unique().to_pylist()
        other = {name: find(name) or name for name in known if name is not None}
        if all(name == one for name, one in other.items()):
            return self
        targets = [other.get(name) for name in self.table["target"].to_pylist()]
        at = self.table.column_names.index("target")
        column = pa.chunked_array([pa.array(targets, pa.string())])
        return replace(self, table=self.table.set_column(at, "target", column))

    def tests_of(self, line: str, labels: Sequence[str], genes: Sequence[str]) -> Tests:
        """Tests of one cell line, [P, G] as `labels` and `genes`; rows may lack.

        Raises
        ------
        DataError
            A label or gene is not among the cells', a label has no row, or a row stands twice.
        """
        table = self.table
        if self.line_column is not None:
            table = table.filter(pa.compute.equal(table[self.line_column], line))
        where = f"{self.path}, cell line {line!r}" if self.line_column else self.path
        rows, own_labels = _codes(table["target"], labels)
        columns, _ = _codes(table["feature"], genes)
        if (rows < 0).any():
            name = table["target"][int(np.argmax(rows < 0))].as_py()
            raise DataError(
                f"target {name!r} is no perturbation of the cells: a table of other cells?",
                where=where,
                fix=did_you_mean(name, labels),
            )
        lacking = [label for label in labels if label not in own_labels]
        if lacking:
            raise DataError(
                f"no row for perturbation {lacking[0]!r}: a table of other cells?",
                where=where,
                fix="make the table from these cells; its targets are "
                + ", ".join(map(repr, sorted(own_labels)[:8])),
            )
        if (columns < 0).any():
            name = table["feature"][int(np.argmax(columns < 0))].as_py()
            raise DataError(
                f"feature {name!r} is no gene of the cells: a table of other cells?",
                where=where,
                fix=did_you_mean(name, genes),
            )
        at = rows * len(genes) + columns
        if len(np.unique(at)) < len(at):
            first = at[np.flatnonzero(np.bincount(at)[at] > 1)[0]]
            raise DataError(
                f"target {labels[first // len(genes)]!r}, feature {genes[first % len(genes)]!r} "
                "stands twice",
                where=where,
                fix="a table of several cell lines needs a column that tells them apart"
                if self.line_column is None
                else "leave one of the rows out",
            )
        return self._tests(table, at, (len(labels), len(genes)))

    def _tests(self, table: pa.Table, at: np.ndarray, shape: tuple[int, int]) -> Tests:
        def spread(values: Any, rest: float | bool) -> np.ndarray:
            out = np.full(shape, rest, dtype=bool if isinstance(rest, bool) else np.float32)
            with np.errstate(over="ignore"):
                out.reshape(-1)[at] = values
            return out

        fold = spread(table["log2_fold_change"].to_numpy(), np.nan)
        has_fold = spread(table["log2_fold_change"].is_valid().to_numpy(), False)
        tested = spread(True, False)
        undefined = int((tested & np.isnan(fold)).sum())
        if undefined:
            log.warning("%s: %d fold changes are empty or NaN", self.path, undefined)
        # Without a size a gene ranks last, with one that is NaN first.
        size = np.where(has_fold, np.abs(fold), np.float32(-1))
        if SIZE in table.column_names:
            size = spread(table[SIZE].to_numpy(), np.nan)
            size[~spread(table[SIZE].is_valid().to_numpy(), False)] = -1
        return Tests(fold, size, spread(table["fdr"].to_numpy(), np.nan), tested, has_fold)


def _names(path: Path) -> list[str]:
    """Names of a table's columns."""
    if is_parquet(path):
        return list(pa.parquet.read_schema(path).names)
    first = first_line(path)
    names = next(csv.reader([first], delimiter=separator(first)), [])
    return [name.strip() for name in names]


def _columns(path: Path, kinds: dict[str, pa.DataType]) -> pa.Table:
    """Columns of a table, as `kinds`."""
    if is_parquet(path):
        table = pa.parquet.read_table(path, columns=list(kinds)).select(list(kinds))
        return table.cast(pa.schema(list(kinds.items())))
    # Labels and genes stay text, whatever they look like: there are genes called NA and NAN.
    options = pa.csv.ConvertOptions(
        column_types=kinds,
        include_columns=list(kinds),
        strings_can_be_null=False,
        null_values=["", "NA", "null"],
    )
    first = first_line(path)
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(
            column_names=_names(path), skip_rows=1, encoding=encoding(path)
        ),
        parse_options=pa.csv.ParseOptions(delimiter=separator(first)),
        convert_options=options,
    )


def _codes(column: Any, names: Sequence[str]) -> tuple[np.ndarray, set[str]]:
    """Place of every value among `names`, -1 if it is none of them; and the values."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    place = {name: i for i, name in enumerate(names)}
    places = np.array([place.get(value, -1) for value in values], dtype=np.int64)
    indices = encoded.indices.fill_null(len(places)).to_numpy()
    return np.append(places, -1)[indices], set(values)


def write_tests(table: DETable, path: Path) -> None:
    """Write a table as parquet, in pdex's columns, a few labels at a time."""
    genes = pa.array(table.genes, pa.string())
    with whole(path) as part, _writer(part) as writer:
        for start in range(0, len(table.labels), BLOCK):
            some = table.select(table.labels[start : start + BLOCK])
            shape = some.statistic.shape
            label, gene = np.indices(shape, dtype=np.int32)
            labels = pa.array(some.labels, pa.string())
            columns = {
                "target": pa.DictionaryArray.from_arrays(label.ravel(), labels).cast(pa.string()),
                "feature": pa.DictionaryArray.from_arrays(gene.ravel(), genes).cast(pa.string()),
                "target_membership": np.repeat(some.n_target, shape[1]),
                "ref_membership": np.repeat(some.n_ref, shape[1]),
            }
            rest = {name: getattr(some, name).ravel() for name in COLUMNS if name not in columns}
            writer.write_table(pa.table(columns | rest).select(COLUMNS))


def _writer(path: Path) -> Any:
    text = {"target", "feature"}
    whole_numbers = {"target_membership", "ref_membership"}
    kinds = [
        pa.string() if x in text else pa.int64() if x in whole_numbers else pa.float64()
        for x in COLUMNS
    ]
    # Numbers hardly repeat: looking for it takes longer than writing them.
    return pa.parquet.ParquetWriter(
        path,
        pa.schema(list(zip(COLUMNS, kinds, strict=True))),
        use_dictionary=sorted(text | whole_numbers),
    )
