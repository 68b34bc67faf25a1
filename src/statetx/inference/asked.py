"""Read the table of conditions that `statetx infer` predicts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from statetx.core.documents import Wanted
from statetx.core.errors import DataError, did_you_mean
from statetx.shared.labels import Reading
from statetx.shared.tables import check_columns, count, read_table

COLUMNS = ("perturbation", "cell_line", "n_cells")
MOST_CELLS = 1_000_000
"""Most cells of one condition: a larger number is a typing error that would fill the memory."""
WANTED = Wanted(
    "the table",
    DataError,
    "a CSV with the columns perturbation, cell_line and, if you like, n_cells",
)


def read_asked(
    path: Path,
    lines: Collection[str],
    labels: Collection[str],
    controls: Collection[str | None],
    reading: Reading,
) -> dict[tuple[str, str], int | None]:
    """Read the requested conditions with their numbers of cells.

    A line or label that is unknown is looked up again without the blanks around it.

    Parameters
    ----------
    path
        The table.
    lines, labels
        Known names: lines of the file, labels of the model and of the file.
    controls
        Labels of the control.
    reading
        How labels are read: a condition must not occur twice in two spellings.

    Returns
    -------
    dict
        (line, perturbation) -> number of cells; None: the table does not state it.

    Raises
    ------
    DataError
        The table cannot be read, or contains a line that is not in the file, the control, or a
        condition twice.
    """
    table = read_table(path, WANTED)
    for name in table.columns:
        if name not in COLUMNS:
            raise DataError(f"unknown column {name!r}", where=path, fix=did_you_mean(name, COLUMNS))
    check_columns(table, COLUMNS[:2], path, WANTED)
    out: dict[tuple[str, str], int | None] = {}
    meant: dict[tuple[str, str], str] = {}
    control = {reading.canonical(label) for label in controls if label is not None}
    for number, row in enumerate(table.to_dict("records"), start=1):
        where = f"{path}, row {number}"
        line, label = _known(row["cell_line"], lines), _known(row["perturbation"], labels)
        if line not in lines:
            raise DataError(
                f"no cell line {line!r} in the file",
                where=where,
                fix=f"{did_you_mean(line, lines)} Predictions need control cells of the line",
            )
        if label == "" or reading.canonical(label) in control:
            raise DataError(
                f"{label!r} is not a perturbation to predict",
                where=where,
                fix="name a perturbation other than the control",
            )
        first = meant.setdefault((line, reading.canonical(label)), label)
        if (line, label) in out or first != label:
            raise DataError(
                f"({line!r}, {label!r}) is asked for twice"
                + (f", first as {first!r}" if first != label else ""),
                where=where,
                fix="name each perturbation of a cell line once",
            )
        text = str(row.get("n_cells", "")).strip()
        n = count(text)
        if text and not (n and n <= MOST_CELLS):
            raise DataError(
                f"n_cells is {text!r}",
                where=where,
                fix=f"write a whole number from 1 to {MOST_CELLS:,}, or nothing",
            )
        out[line, label] = n
    return dict(sorted(out.items()))


def _known(value: object, names: Collection[str]) -> str:
    text = str(value)
    return text.strip() if text not in names and text.strip() in names else text
