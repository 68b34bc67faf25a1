"""What the code of a stage means, as one digest.

The digest covers the definitions that a stage can reach from its root modules. It does not cover what cannot
change a result: comments, docstrings, messages, logging, progress bars, names of modules, and import
statements. A module may therefore be moved or renamed without making a result stale.
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
"""Rooms whose text cannot change a number: settings reach a stage as parameters, messages and
provenance are not results. Following them would retrain every model for a reworded error."""

_SILENT_CALLS = frozenset(
    {"print", "log", "debug", "info", "warning", "warn", "error", "exception", "critical"}
    | {"update", "advance", "set_postfix", "set_description", "set_postfix_str"}
)
_SILENT_OWNERS = frozenset({"log", "logger", "logging", "console", "progress", "bar", "warnings"})
_PROGRESS = frozenset({"tqdm"})


class _Binding(NamedTuple):
    """A name that an import statement binds: ``from module import name as alias``."""

    alias: str
    module: str
    name: str


class _Definition(NamedTuple):
    """One statement of a module.

    Attributes
    ----------
    name
        What it defines, if nothing else can need it; None: it always counts.
    meaning
        Digest of its syntax tree.
    names
        Every identifier in it, and every text that could be one.
    bindings
        What the import statements inside it bind.
    """

    name: str | None
    meaning: str
    names: frozenset[str]
    bindings: tuple[_Binding, ...]


class _Meaning(ast.NodeTransformer):
    """Drops what cannot change a result: docstrings, messages, logging, progress and imports."""

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
    """Return a syntax tree as text, the same in all versions of Python (`ast.dump` changed in 3.13)."""
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
    """Return the name of a function or class that nothing but its name leads to.

    A decorator may register what it decorates, and names in double underscores are special.
    """
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return None
    return None if node.decorator_list or node.name.startswith("__") else node.name


@cache
def _read(path: Path, module: str, _stamp: tuple[int, int]) -> tuple[_Definition, ...]:
    """Parse once: the workflow asks for 26 fingerprints of the same modules when it starts."""
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
    """The definitions that some root modules reach."""

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
        """Return the file of a module of this package, None for other modules and for packages."""
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
        """Return the module of this package that a binding leads to."""
        whole = f"{binding.module}.{binding.name}"
        return next((m for m in (whole, binding.module) if self.path_of(m) is not None), None)

    def _grow(self) -> bool:
        """Count what is reached by name from what is counted; return whether that was anything."""
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
        """Return the digest of a module: its counted definitions and what its imports lead to."""
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
        """Return what a binding leads to: the digest of a module here, the name of one elsewhere."""
        target = self._target(binding)
        if target is not None:
            return self.digest_of(target)
        return "" if binding.module.split(".")[0] == PACKAGE else binding.module


def _closure(roots: Iterable[str], package_dir: Path | None) -> _Closure:
    return _Closure(roots, package_dir or Path(__file__).parents[1])


def followed_modules(roots: Iterable[str], package_dir: Path | None = None) -> Mapping[str, Path]:
    """Return every module of this package that `roots` reach, with its file, sorted by name."""
    return dict(sorted(_closure(roots, package_dir).modules.items()))


def code_fingerprint(roots: Iterable[str], package_dir: Path | None = None) -> str:
    """Return a digest of what the code of `roots` means.

    Every definition counts that a root reaches: all of the root modules, and of the modules that they
    import (except `NEVER_FOLLOWED` and ``__init__`` files) each function and class whose name occurs in
    what counts. Names are compared without regard to their owner, so that rather too much counts.

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
    found = _closure(roots, package_dir)
    missing = [root for root in found.roots if root not in found.modules]
    if missing:
        raise ResultsError(f"no source found for the code root {missing[0]!r}")
    return digest([found.digest_of(root) for root in found.roots])
