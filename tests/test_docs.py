"""Paths, links, module names and line lengths of the documentation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import statetx

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "statetx"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST_LINE = 100
GENERATED = {"results", "logs", "wandb", ".state", ".snakemake", ".venv"}
"""Top-level directories that runs create: their paths need not exist."""
TOP = {path.name for path in ROOT.iterdir() if path.is_dir()} - GENERATED
PACKAGES = {path.name for path in SOURCE.iterdir() if path.is_dir()}
FENCE = re.compile(r" *(```|~~~)")
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
URL = re.compile(r"https?://\S+")
DOTTED = re.compile(r"(?<![\w/.\[-])statetx(?:\.[A-Za-z_]\w*)+")
PLACEHOLDER = re.compile(r"[{}<>…]|\.\.\.|[A-Z]{4,}/")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line outside fenced and indented code."""
    fenced = indented = False
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
            before = line
            continue
        indented = line.startswith("    ") and (indented or not before.strip())
        before = line
        if not fenced and not indented:
            yield number, line


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    found: set[str] = set()
    for _, line in prose(text):
        if match := re.match(r"#+ +(.+)", line):
            title = LINK.sub("]", match[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-")
            repeats = sum(
                re.fullmatch(re.escape(slug) + r"(-\d+)?", name) is not None for name in found
            )
            found.add(f"{slug}-{repeats}" if repeats else slug)
    return found


def missing_paths(text: str) -> list[str]:
    """Return the paths in backquotes that look like repository files and do not exist."""
    missing = []
    for number, line in prose(text):
        for span in SPAN.findall(line):
            path = span.rstrip("/")
            if "/" not in span or " " in span or PLACEHOLDER.search(span):
                continue
            first = path.split("/")[0]
            if first not in TOP | PACKAGES and not (
                path.endswith(".py") and first not in GENERATED
            ):
                continue
            if not any(next(base.glob(path), None) for base in (ROOT, SOURCE, ROOT / "tests")):
                missing.append(f"line {number}: {span}")
    return missing


def broken_links(text: str, home: Path) -> list[str]:
    """Return the relative links whose file, or whose anchor, does not exist."""
    broken = []
    for number, line in prose(text):
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (home / name).resolve() if name else None
            there = path is None or path.exists()
            if there and anchor:
                there = anchor in anchors(text if path is None else path.read_text("utf-8"))
            if not there:
                broken.append(f"line {number}: {target}")
    return broken


def unknown_modules(text: str) -> list[str]:
    """Return the dotted names of the package that are not a module or a name in one."""
    return [name for name in DOTTED.findall(text) if not _is_known(name)]


def _is_known(name: str) -> bool:
    if name.removeprefix("statetx.") in statetx.__all__:
        return True
    path = SOURCE
    parts = name.split(".")[1:]
    for i, part in enumerate(parts):
        if (path / part).is_dir():
            path = path / part
            continue
        file = path / f"{part}.py"
        if file.is_file():
            return len(parts) == i + 1 or parts[i + 1] in _names(file)
        return part in _names(path / "__init__.py")
    return True


def _names(file: Path) -> set[str]:
    """Return the names that a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names.update(leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name))
    return names


def long_lines(text: str) -> list[str]:
    """Return the lines of prose that are too long, tables and URLs excepted."""
    return [
        f"line {number}: {len(line)} characters"
        for number, line in prose(text)
        if not line.lstrip().startswith("|") and len(URL.sub("", line)) > LONGEST_LINE
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_paths_in_backquotes_exist(path: Path) -> None:
    assert missing_paths(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_to_files_and_headings(path: Path) -> None:
    assert broken_links(path.read_text("utf-8"), path.parent) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_module_names_exist(path: Path) -> None:
    assert unknown_modules(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_lines_of_prose_are_wrapped(path: Path) -> None:
    assert long_lines(path.read_text("utf-8")) == []


def test_every_document_is_listed_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [path.name for path in DOCUMENTS[2:] if f"(docs/{path.name})" not in text] == []


def test_the_checks_find_what_is_wrong() -> None:
    text = "# A title: of `two` words\n\n`core/gone.py`, `core/errors.py`, `results/x/y.csv`\n"
    text += "[a](gone.md) [b](#a-title-of-two-words) [c](#gone) [d](docs/status.md#gone)\n"
    text += "statetx.core.gone, statetx.core.errors.StatetxError, statetx.core.errors.Gone\n"
    text += "x" * 101 + "\n\n```\n" + "y" * 101 + "\n`core/gone.py`\n```\n| " + "z" * 101 + " |\n"
    assert missing_paths(text) == ["line 3: core/gone.py"]
    assert broken_links(text, ROOT) == [
        "line 4: gone.md",
        "line 4: #gone",
        "line 4: docs/status.md#gone",
    ]
    assert unknown_modules(text) == ["statetx.core.gone", "statetx.core.errors.Gone"]
    assert long_lines(text) == ["line 6: 101 characters"]
