"""What the code of a stage means, as one digest."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from statetx.core.digests import digest
from statetx.core.errors import ResultsError
from statetx.core.writes import disk_full as disk_full
from statetx.core.writes import staged as staged
from statetx.core.writes import sweep as sweep
from statetx.core.writes import whole as whole

PACKAGE = "statetx"

NEVER_FOLLOWED = frozenset({"cli", "config", "core", "stages"})
"""Rooms whose text cannot change a number: settings reach a stage as parameters, messages and
provenance are not results. Following them would retrain every model for a reworded error."""

_SILENT_CALLS = frozenset(
    {"print", "log", "debug", "info", "warning", "warn", "error", "exception", "critical"}
    | {"update", "advance", "set_postfix", "set_description", "set_postfix_str"}
)

_SILENT_OWNERS = frozenset({"log", "logger", "logging", "console", "progress", "bar", "warnings"})


class _Meaning(ast.NodeTransformer):
    """Drops what cannot change a result: docstrings, messages, logging and progress calls."""

    def _body(self, body: list[ast.stmt]) -> list[ast.stmt]:
        kept = [node for node in body if not _is_silent(node)]
        return kept or [ast.Pass()]

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                setattr(node, field, self._body(body))
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node


def _is_silent(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Constant):  # a docstring, or an attribute's
        return True
    if not isinstance(value, ast.Call):
        return False
    func = value.func
    if isinstance(func, ast.Name):
        return func.id == "print"
    return (
        isinstance(func, ast.Attribute)
        and func.attr in _SILENT_CALLS
        and isinstance(func.value, ast.Name)
        and func.value.id in _SILENT_OWNERS
    )


def _source_of(module: str, root: Path) -> Path | None:
    relative = Path(*module.split(".")[1:]) if "." in module else Path()
    for candidate in (root / relative.with_suffix(".py"), root / relative / "__init__.py"):
        if module != PACKAGE and candidate.is_file():
            return candidate
    return None


def _imports(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: -node.level]
                base = ".".join([*parent, base] if base else parent)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _followed(module: str) -> bool:
    parts = module.split(".")
    return parts[0] == PACKAGE and len(parts) > 1 and parts[1] not in NEVER_FOLLOWED


class _Source(NamedTuple):
    """What a module's source says."""

    meaning: str
    imports: tuple[str, ...]


@cache
def _read(path: Path, module: str, _stamp: tuple[int, int]) -> _Source:
    """Parse once: the workflow asks for 26 fingerprints of the same modules when it starts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = tuple(filter(_followed, dict.fromkeys(_imports(tree, module))))
    dumped = ast.dump(_Meaning().visit(tree))
    return _Source(hashlib.sha256(dumped.encode()).hexdigest(), imports)


def _source(module: str, path: Path) -> _Source:
    stat = path.stat()
    return _read(path, module, (stat.st_mtime_ns, stat.st_size))


def followed_modules(roots: Iterable[str], package_dir: Path | None = None) -> dict[str, Path]:
    """Return every in-package module that `roots` import, directly or not, with its file."""
    base = package_dir or Path(__file__).parents[1]
    queue, seen = list(roots), {}
    while queue:
        module = queue.pop()
        if module in seen or not _followed(module):
            continue
        path = _source_of(module, base)
        if path is None or path.name == "__init__.py":
            continue
        seen[module] = path
        queue.extend(_source(module, path).imports)
    return dict(sorted(seen.items()))


def code_fingerprint(roots: Iterable[str], package_dir: Path | None = None) -> str:
    """Return a digest of what the code of `roots` means.

    Comments, docstrings, layout, and the text inside ``raise``, logging and progress calls do not
    count; every module of this package that a root imports does, except `NEVER_FOLLOWED` and
    ``__init__`` files.

    Parameters
    ----------
    roots
        Dotted module names, such as ``statetx.evaluation.held_out.evaluate``.
    package_dir
        Directory of the package; the installed one by default.
    """
    modules = followed_modules(roots, package_dir)
    missing = [root for root in roots if root not in modules]
    if missing:
        raise ResultsError(f"no source found for the code root {missing[0]!r}")
    return digest([(module, _source(module, path).meaning) for module, path in modules.items()])
