"""Fingerprint of the code of a stage: one digest of all code that can change its result.

The digest covers the definitions that a stage can reach from its root modules. It does not cover
comments, docstrings, messages, logging, progress bars, names of modules, and import statements,
because these cannot change a result. A module may therefore be moved or renamed without making a
result stale.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from statetx.core.digests import digest
from statetx.core.errors import ResultsError

PACKAGE = "statetx"

NEVER_FOLLOWED = frozenset({"cli", "config", "core", "stages"})
"""Sub-packages whose code cannot change a result.

Settings reach a stage as parameters; messages and records are not results. Following these
sub-packages would retrain every model after a reworded error message."""

_SILENT_CALLS = frozenset(
    {"print", "log", "debug", "info", "warning", "warn", "error", "exception", "critical"}
    | {"found", "update", "advance", "set_postfix", "set_description", "set_postfix_str"}
)
_SILENT_OWNERS = frozenset({"log", "logger", "logging", "console", "progress", "bar", "warnings"})
_PROGRESS = frozenset({"tqdm"})


class _Binding(NamedTuple):
    """Name that an import statement binds: ``from module import name as alias``."""

    alias: str
    module: str
    name: str


class _Definition(NamedTuple):
    """Top-level statement of a module.

    Attributes
    ----------
    name
        Name of the function or class, if the statement counts only where this name occurs.
        None: the statement always counts.
    meaning
        Digest of the syntax tree; empty for an import.
    names
        Every identifier in the statement, and every string that could be an identifier.
    bindings
        Names that import statements inside the statement bind.
    """

    name: str | None
    meaning: str
    names: frozenset[str]
    bindings: tuple[_Binding, ...]


class _Meaning(ast.NodeTransformer):
    """Transformer that drops docstrings, messages, logging, progress calls and imports."""

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

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _PROGRESS:
            return node.args[0] if node.args else ast.Constant(None)
        return node


def _is_silent(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):  # their bindings are compared, not their text
        return True
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Constant):  # a docstring of a function, class or attribute
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


def _bindings(tree: ast.AST, module: str) -> Iterator[_Binding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                yield _Binding(alias.asname or first, alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: -node.level]
                base = ".".join([*parent, base] if base else parent)
            for alias in node.names:
                yield _Binding(alias.asname or alias.name, base, alias.name)


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (part for part in node.value.split(".") if part.isidentifier())


def _text(value: Any) -> str:
    """Return a syntax tree as text that all versions of Python agree on.

    `ast.dump` changed in Python 3.13.
    """
    if isinstance(value, ast.AST):
        fields = (
            f"{name}={_text(item)}"
            for name, item in ast.iter_fields(value)
            if name not in ("ctx", "kind", "type_comment") and item is not None and item != []
        )
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return repr(value)


def _defined(node: ast.stmt) -> str | None:
    """Return the name of a function or class that other code can reach by its name only.

    A decorator may register a function, and Python itself calls names with double underscores;
    such definitions always count, so the result is None.
    """
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return None
    return None if node.decorator_list or node.name.startswith("__") else node.name


@cache
def _read(path: Path, module: str, _stamp: tuple[int, int]) -> tuple[_Definition, ...]:
    """Parse a source file once: the workflow asks for 26 fingerprints when it starts."""
    out = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        bindings = tuple(_bindings(node, module))
        if isinstance(node, ast.Import | ast.ImportFrom):
            out += [_Definition(one.alias, "", frozenset(), (one,)) for one in bindings]
            continue
        if _is_silent(node):
            continue
        kept = _Meaning().visit(node)
        meaning = hashlib.sha256(_text(kept).encode()).hexdigest()
        out.append(_Definition(_defined(node), meaning, frozenset(_names(kept)), bindings))
    return tuple(out)


class _Closure:
    """All definitions that some root modules reach.

    Parameters
    ----------
    roots
        Dotted module names.
    package_dir
        Directory of the package.
    """

    def __init__(self, roots: Iterable[str], package_dir: Path) -> None:
        self.roots, self._package_dir = list(roots), package_dir
        self.modules: dict[str, Path] = {}
        self._definitions: dict[str, tuple[_Definition, ...]] = {}
        self._names: set[str] = set()
        self._counted: dict[str, set[int]] = {}
        self._digests: dict[str, str] = {}
        for root in self.roots:
            self._open(root)
        while self._grow():
            pass

    def path_of(self, module: str) -> Path | None:
        """Return the file of a module; None for packages, other modules and `NEVER_FOLLOWED`."""
        parts = module.split(".")
        if parts[0] != PACKAGE or len(parts) < 2 or parts[1] in NEVER_FOLLOWED:
            return None
        path = self._package_dir.joinpath(*parts[1:]).with_suffix(".py")
        return path if path.is_file() else None

    def _open(self, module: str) -> bool:
        """Add a module to the closure; return whether it is new."""
        if module in self.modules or (path := self.path_of(module)) is None:
            return False
        stat = path.stat()
        self.modules[module] = path
        self._definitions[module] = _read(path, module, (stat.st_mtime_ns, stat.st_size))
        self._counted[module] = set()
        return True

    def _target(self, binding: _Binding) -> str | None:
        """Return the module of this package that a binding refers to, or None."""
        whole = f"{binding.module}.{binding.name}"
        return next((m for m in (whole, binding.module) if self.path_of(m) is not None), None)

    def _grow(self) -> bool:
        """Count the definitions whose names occur in counted ones; return whether any were new."""
        grown = False
        for module in list(self.modules):
            whole = module in self.roots
            for i, one in enumerate(self._definitions[module]):
                imported = not one.meaning
                always = one.name is None or (whole and not imported)
                if i in self._counted[module] or not (always or one.name in self._names):
                    continue
                grown = True
                self._counted[module].add(i)
                self._names |= one.names
                for binding in one.bindings:
                    self._names |= {binding.alias, binding.name}
                    if (target := self._target(binding)) is not None:
                        self._open(target)
        return grown

    def digest_of(self, module: str) -> str:
        """Return the digest of a module: its counted definitions and the modules they import."""
        if module not in self._digests:
            self._digests[module] = "in a circle"
            counted = [self._definitions[module][i] for i in sorted(self._counted[module])]
            imports = sorted(
                (one.alias, one.name if one.module else "", self._meaning_of(one))
                for definition in counted
                for one in definition.bindings
            )
            meanings = [one.meaning for one in counted if one.meaning]
            self._digests[module] = digest([meanings, imports], 64)
        return self._digests[module]

    def _meaning_of(self, binding: _Binding) -> str:
        """Return the digest of an imported module of this package; the name of any other module."""
        target = self._target(binding)
        if target is not None:
            return self.digest_of(target)
        return "" if binding.module.split(".")[0] == PACKAGE else binding.module


def _closure(roots: Iterable[str], package_dir: Path | None) -> _Closure:
    return _Closure(roots, package_dir or Path(__file__).parents[1])


def followed_modules(roots: Iterable[str], package_dir: Path | None = None) -> Mapping[str, Path]:
    """Return every module of this package that `roots` reach, with its file, sorted by name.

    Parameters
    ----------
    roots, package_dir
        As in `code_fingerprint`.
    """
    return dict(sorted(_closure(roots, package_dir).modules.items()))


def code_fingerprint(roots: Iterable[str], package_dir: Path | None = None) -> str:
    """Return a digest of all definitions that the root modules reach.

    All definitions of the root modules count. In the modules that they import (except
    `NEVER_FOLLOWED` and ``__init__`` files), a function or class counts if its name occurs in a
    counted definition. Names are compared without their module, so rather too many definitions
    count than too few.

    Parameters
    ----------
    roots
        Dotted module names, such as ``statetx.evaluation.held_out.evaluate``.
    package_dir
        Directory of the package; the installed one by default.

    Raises
    ------
    ResultsError
        A root is not a module of the package.
    """
    closure = _closure(roots, package_dir)
    missing = [root for root in closure.roots if root not in closure.modules]
    if missing:
        raise ResultsError(f"no source found for the code root {missing[0]!r}")
    return digest([closure.digest_of(root) for root in closure.roots])
