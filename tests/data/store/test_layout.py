"""Cell lines in paths."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from statetx.core.errors import DataError
from statetx.data.store import layout

NASTY = [
    "..",
    ".",
    "...",
    "a/b",
    "/etc",
    " K562",
    "a\tb",
    "a\nb",
    "βTC6",
    "K%562",
    "~",
    "{x}",
    "[1]",
    "*",
    "-x",
]


@pytest.mark.parametrize("line", NASTY)
def test_file_names_are_plain_and_say_the_line(line: str) -> None:
    name = layout.file_name(line)
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-%")
    assert name.strip(".")
    assert unquote(name) == line


@pytest.mark.parametrize("line", NASTY)
def test_directories_of_tables_stay_where_they_belong(tmp_path: Path, line: str) -> None:
    (tmp_path / "out" / layout.folder_name(line)).mkdir(parents=True)
    assert [path.parent.parent for path in tmp_path.glob("*/*")] == [tmp_path]
    assert layout.folder_name("a/b c") == "a-b c"  # as cell-eval names it


def test_an_old_locale_gets_plain_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout.os, "fsencode", lambda name: name.encode("ascii"))
    assert layout.folder_name("βTC6") == "%CE%B2TC6"
    assert layout.folder_name("K 562") == "K 562"


def test_names_that_are_too_long_are_refused() -> None:
    for name in (layout.file_name, layout.folder_name):
        with pytest.raises(DataError, match="would have 300 characters"):
            name("x" * 300)
    assert layout.file_name("x" * layout.LONGEST) == "x" * layout.LONGEST


def test_case_counts_where_the_file_system_ignores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.check_case(["K562", "k562"], tmp_path / "not" / "there")  # of this system: told apart
    monkeypatch.setattr(layout, "_ignores_case", lambda _: True)
    layout.check_case(["K562", "A549"], tmp_path)
    with pytest.raises(DataError, match="'K562' and 'k562' differ in upper and lower case only"):
        layout.check_case(["K562", "k562"], tmp_path)
