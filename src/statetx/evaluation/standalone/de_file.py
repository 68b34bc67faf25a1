"""Read supplied tables of differential expression; write our own.

Supplied tables have the columns of pdex. So do ours.
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
"""Optional column. If a table has it, genes are ranked by it, as in cell-eval."""

BLOCK = 50
"""Labels that are written at once: with 2,000 genes, 100,000 rows or 10 MB."""


@dataclass(frozen=True)
class SuppliedTable:
    """A table of differential expression that was supplied as a file.

    Attributes
    ----------
    path
        The file.
    table
        Its columns that are used.
    line_column
        Column with the cell line; None: the cells are of one line.
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
            Column with the cell line; None: the cells are of one line.

        Raises
        ------
        DataError
            The file cannot be read, a column is missing, or a value is not a number.
        """
        path = Path(path)
        wanted = [*REQUIRED, *([line_column] if line_column else [])]
        try:
            names = _names(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"cannot read the differential expression: {error}",
                where=path,
                fix=f"give a CSV or parquet file with {', '.join(REQUIRED)}",
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
                fix=f"write only numbers, inf, NaN or nothing into "
                f"{', '.join(x for x in kinds if kinds[x] == pa.float64())}",
            ) from error

    def spelt(self, find: Callable[[str], str | None]) -> SuppliedTable:
        """Return the same table with targets in another spelling.

        Parameters
        ----------
        find
            Returns the spelling of a target; None: unchanged.
        """
        known = self.table["target"].unique().to_pylist()
        other = {name: find(name) or name for name in known if name is not None}
        if all(name == spelling for name, spelling in other.items()):
            return self
        targets = [other.get(name) for name in self.table["target"].to_pylist()]
        at = self.table.column_names.index("target")
        column = pa.chunked_array([pa.array(targets, pa.string())])
        return replace(self, table=self.table.set_column(at, "target", column))

    def tests_of(self, line: str, labels: Sequence[str], genes: Sequence[str]) -> Tests:
        """Return the tests of one cell line, [P, G]. A row may be missing, but not all of a label.

        Parameters
        ----------
        line
            Name of the line.
        labels, genes
            The P perturbations and G genes of the cells.

        Raises
        ------
        DataError
            A target or feature is not among `labels` or `genes`, a label has no row, or a row
            occurs twice.
        """
        table = self.table
        if self.line_column is not None:
            table = table.filter(pa.compute.equal(table[self.line_column], line))
        where = f"{self.path}, cell line {line!r}" if self.line_column else self.path
        rows, targets = _codes(table["target"], labels)
        columns, _ = _codes(table["feature"], genes)
        if (rows < 0).any():
            name = table["target"][int(np.argmax(rows < 0))].as_py()
            raise DataError(
                f"target {name!r} is not a perturbation of the cells: a table of other cells?",
                where=where,
                fix=did_you_mean(name, labels),
            )
        missing = [label for label in labels if label not in targets]
        if missing:
            raise DataError(
                f"no row for perturbation {missing[0]!r}: a table of other cells?",
                where=where,
                fix="make the table from these cells; its targets are "
                + ", ".join(map(repr, sorted(targets)[:8])),
            )
        if (columns < 0).any():
            name = table["feature"][int(np.argmax(columns < 0))].as_py()
            raise DataError(
                f"feature {name!r} is not a gene of the cells: a table of other cells?",
                where=where,
                fix=did_you_mean(name, genes),
            )
        places = rows * len(genes) + columns
        if len(np.unique(places)) < len(places):
            first = places[np.flatnonzero(np.bincount(places)[places] > 1)[0]]
            raise DataError(
                f"target {labels[first // len(genes)]!r}, feature {genes[first % len(genes)]!r} "
                "occurs twice",
                where=where,
                fix="add a column with the cell line if the table has several lines"
                if self.line_column is None
                else "remove one of the rows",
            )
        return self._tests(table, places, (len(labels), len(genes)))

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
        # A gene without a size ranks last, a gene whose size is NaN first.
        size = np.where(has_fold, np.abs(fold), np.float32(-1))
        if SIZE in table.column_names:
            size = spread(table[SIZE].to_numpy(), np.nan)
            size[~spread(table[SIZE].is_valid().to_numpy(), False)] = -1
        return Tests(fold, size, spread(table["fdr"].to_numpy(), np.nan), tested, has_fold)


def _names(path: Path) -> list[str]:
    """Return the names of a table's columns."""
    if is_parquet(path):
        return list(pa.parquet.read_schema(path).names)
    first = first_line(path)
    try:
        names = next(csv.reader([first], delimiter=separator(first)), [])
    except csv.Error as error:
        raise DataError(
            f"cannot read the header of the table: {error}",
            where=path,
            fix="the first line must name the columns, separated by commas or tabs",
        ) from error
    return [name.strip() for name in names]


def _columns(path: Path, kinds: dict[str, pa.DataType]) -> pa.Table:
    """Read columns of a table, with the types of `kinds`."""
    if is_parquet(path):
        table = pa.parquet.read_table(path, columns=list(kinds)).select(list(kinds))
        return table.cast(pa.schema(list(kinds.items())))
    # Labels and genes are always text: there are genes called NA and NAN.
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
    """Return the place of each value among `names` (-1: none of them), and the set of values."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    place = {name: i for i, name in enumerate(names)}
    places = np.array([place.get(value, -1) for value in values], dtype=np.int64)
    indices = encoded.indices.fill_null(len(places)).to_numpy()
    return np.append(places, -1)[indices], set(values)


def write_tests(table: DETable, path: Path) -> None:
    """Write a table as parquet with the columns of pdex, `BLOCK` labels at a time.

    Parameters
    ----------
    table
        The table.
    path
        Parquet file.
    """
    genes = pa.array(table.genes, pa.string())
    with whole(path) as part, _writer(part) as writer:
        for start in range(0, len(table.labels), BLOCK):
            block = table.select(table.labels[start : start + BLOCK])
            shape = block.statistic.shape
            label, gene = np.indices(shape, dtype=np.int32)
            labels = pa.array(block.labels, pa.string())
            columns = {
                "target": pa.DictionaryArray.from_arrays(label.ravel(), labels).cast(pa.string()),
                "feature": pa.DictionaryArray.from_arrays(gene.ravel(), genes).cast(pa.string()),
                "target_membership": np.repeat(block.n_target, shape[1]),
                "ref_membership": np.repeat(block.n_ref, shape[1]),
            }
            rest = {name: getattr(block, name).ravel() for name in COLUMNS if name not in columns}
            writer.write_table(pa.table(columns | rest).select(COLUMNS))


def _writer(path: Path) -> Any:
    text = {"target", "feature"}
    whole_numbers = {"target_membership", "ref_membership"}
    kinds = [
        pa.string() if x in text else pa.int64() if x in whole_numbers else pa.float64()
        for x in COLUMNS
    ]
    # Dictionaries for text and cell numbers only. Other numbers hardly repeat: looking for
    # repetitions takes longer than writing them.
    return pa.parquet.ParquetWriter(
        path,
        pa.schema(list(zip(COLUMNS, kinds, strict=True))),
        use_dictionary=sorted(text | whole_numbers),
    )
