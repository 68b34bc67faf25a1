"""Tables in every encoding, separator and format that people have; what is written is read back exactly."""

from __future__ import annotations

import gzip
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statetx.core.documents import Wanted
from statetx.core.errors import DataError
from statetx.shared.tables import check_columns, count, guarded, read_table, unguarded, write_table

WANTED = Wanted("the table", DataError, "correct it")
LABELS = [
    "NA",
    "None",
    "null",
    "nan",
    "N/A",
    "1e5",
    "TRUE",
    "007",
    "1.0",
    "γ-Oryzanol_0.5",
    "",
    "x y",
]
TEXT = "label,cells\r\n" + "".join(f"{label},{i}\r\n" for i, label in enumerate(LABELS))
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


def written(data: bytes | str, tmp_path: Path, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(data: bytes | str, tmp_path: Path, name: str = "t.csv") -> pd.DataFrame:
    return read_table(written(data, tmp_path, name), WANTED)


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-16-be with a mark"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\r\n", "\n"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t"])
def test_labels_stay_text(
    tmp_path: Path, encoding: str, separator: str, newline: str, name: str
) -> None:
    text = TEXT.replace(",", separator).replace("\r\n", newline)
    data = (
        text.encode(encoding) if encoding in ENCODINGS else b"\xfe\xff" + text.encode("utf-16-be")
    )
    table = read(data, tmp_path, name)
    assert table["label"].tolist() == LABELS
    assert table["cells"].tolist() == [str(i) for i in range(len(LABELS))]


def test_what_spreadsheets_add_is_left_out(tmp_path: Path) -> None:
    table = read("sep=;\r\n label ;cells ;;\r\nA;1;;\r\n;;;\r\n\r\n B ;2;;\r\n", tmp_path)
    assert list(table.columns) == ["label", "cells"]
    assert table.values.tolist() == [["A", "1"], [" B ", "2"]]


def test_quotes_hold_separators_and_lines(tmp_path: Path) -> None:
    table = read('"a,b";c\r\n"x;""y""";"two\r\nlines"\r\n', tmp_path)
    assert table.to_dict("records") == [{"a,b": 'x;"y"', "c": "two\r\nlines"}]


def test_compressed_text_and_parquet_are_known_by_their_content(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": LABELS, "cells": [str(i) for i in range(len(LABELS))]})
    frame.to_parquet(tmp_path / "p.csv")
    for data in (gzip.compress(TEXT.encode()), (tmp_path / "p.csv").read_bytes()):
        pd.testing.assert_frame_equal(read(data, tmp_path), frame)


def test_a_parquet_file_gives_its_index_first_and_missing_text_as_nothing(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"x": [1.5, np.nan], "kind": pd.Categorical(["a", None])}, index=["NA", "1"]
    )
    frame.rename_axis("drug").to_parquet(tmp_path / "i.parquet")
    table = read_table(tmp_path / "i.parquet", WANTED)
    assert list(table.columns) == ["drug", "x", "kind"]
    assert table["drug"].tolist() == ["NA", "1"]
    assert table["kind"].tolist() == ["a", ""]
    assert table["x"][0] == 1.5
    assert math.isnan(table["x"][1])


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty"),
    "blanks": (b"\r\n \r\n", "it is empty"),
    "latin-1": ("a,b\ncafé,1\n".encode("latin-1"), r"line 2 is not utf-8 text \(byte 0xe9\)"),
    "utf-16 without a mark": ("a,b\nx,1\n".encode("utf-16-le"), "NUL characters"),
    "half of utf-16": (b"\xff\xfea\0b", "not utf-16 text"),
    "short row": (b"a,b\nx,1\ny\n", "line 3 has 1 values, but the header has 2"),
    "long row": (b"a,b\nx,1\ny,1,2\n", "line 3 has 3 values, but the header has 2"),
    "open quote": (b'a,b\n"x,1\n', "unexpected end of data"),
    "same names": (b"a,a\nx,1\n", "2 columns are named 'a'"),
    "no names": (b"a,,\nx,1,2\n", "2 columns do not have a name"),
    "Excel": (b"PK\x03\x04rest", "Excel workbook"),
    "old Excel": (b"\xd0\xcf\x11\xe0rest", "Excel workbook"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    "half a parquet": (b"PAR1rest", "cannot read the table"),
    "half a gzip": (gzip.compress(TEXT.encode())[:-9], "cannot read the table"),
    "bomb": (gzip.compress(bytes(400 * 2**20)), "unpacks to more than"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_files_are_refused_with_their_place(tmp_path: Path, what: str) -> None:
    data, message = REFUSED[what]
    path = written(data, tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path, WANTED)
    assert caught.value.where == str(path)


def test_missing_files_and_names_are_one_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(DataError, match="cannot read the table"):
            read_table(path, WANTED)
    with pytest.raises(DataError, match="not a parquet file"):
        read("a,b\n1,2\n", tmp_path, "t.parquet")


def test_a_parquet_file_of_constants_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pd.DataFrame({"a": np.zeros(100_000_000, dtype=np.int8)}).to_parquet(path)
    with pytest.raises(DataError, match="too large for a table of labels"):
        read_table(path, WANTED)
    pd.DataFrame({"a": ["x" * 10**6] * 2000}).to_parquet(path)
    assert read_table(path, WANTED)["a"].map(id).nunique() == 1


def test_columns_in_other_case_are_proposed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'label'") as caught:
        check_columns(read("Label,b\nx,1\n", tmp_path), ["label"], "t.csv", WANTED)
    assert "did you mean 'Label'?" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("text", "n"),
    [
        *[("30", 30), ("30.0", 30), (" 30 ", 30), ("3e1", 30), (30, 30), (30.0, 30), ("0", 0)],
        *[("30.", 30), ("1.5", None), ("-1", None), ("", None), ("nan", None), ("inf", None)],
        *[("1e400", None), ("9" * 5000, None), ("1,000", None), ("٣", None), ("3_0", None)],
    ],
)
def test_numbers_of_cells(text: Any, n: int | None) -> None:
    assert count(text) == n


FORMULAS = ["=cmd()", "+1", "-1", "@x", "\tx", "\rx", "'=x", "''=x", "'x", "'", "a=b"]


def test_formulas_are_marked_and_read_back(tmp_path: Path) -> None:
    assert [guarded(x) for x in FORMULAS[:7]] == [f"'{x}" for x in FORMULAS[:7]]
    assert [guarded(x) for x in FORMULAS[8:]] == FORMULAS[8:]
    write_table(pd.DataFrame({"label": FORMULAS}), tmp_path / "t.csv")
    for line in (tmp_path / "t.csv").read_text("utf-8").split("\n")[1:]:
        assert not line.lstrip('"').startswith(("=", "+", "-", "@", "\t", "\r"))
    assert read_table(tmp_path / "t.csv", WANTED)["label"].tolist() == FORMULAS


ANY = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


@settings(max_examples=300, deadline=None)
@given(ANY)
def test_a_mark_is_taken_away_again(text: str) -> None:
    assert unguarded(guarded(text)) == text


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ANY, st.floats(allow_nan=False)), min_size=1, max_size=5))
def test_written_tables_are_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    write_table(pd.DataFrame(rows, columns=["label", "number"]), path)
    table = read_table(path, WANTED)
    assert table["label"].tolist() == [label for label, _ in rows]
    assert [float(x) for x in table["number"]] == [number for _, number in rows]


def test_ordinary_tables_are_written_as_pandas_does(tmp_path: Path) -> None:
    draw = random.Random(0)
    frame = pd.DataFrame(
        {
            "label": ["A,B", 'say "x"', "two\nlines", None, "γ"],
            "dose": [0.05, 5.0, np.nan, 1e-300, -1.5],
            "n": [1, -2, 3, 4, 5],
            "ok": [True, False, True, True, False],
            "share": [draw.random() for _ in range(5)],
        }
    )
    write_table(frame, tmp_path / "ours.csv")
    frame.to_csv(tmp_path / "theirs.csv", index=False)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


def test_the_locale_does_not_matter(tmp_path: Path) -> None:
    path = written(TEXT.encode("utf-16"), tmp_path)
    code = (
        "import sys, pathlib\nfrom statetx.core import documents, errors\nfrom statetx.shared import tables\n"
        "table = tables.read_table(sys.argv[1], documents.Wanted('t', errors.DataError, ''))\n"
        "tables.write_table(table, pathlib.Path(sys.argv[2]))\n"
        "errors.always_printable()\nprint(table['label'].tolist())\n"
    )
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = [sys.executable, "-c", code, str(path), str(tmp_path / "out.csv")]
    done = subprocess.run(arguments, capture_output=True, env=os.environ | old, check=True)
    assert b"'\\u03b3-Oryzanol_0.5'" in done.stdout
    assert read_table(tmp_path / "out.csv", WANTED)["label"].tolist() == LABELS
