"""What a result was made from: digests, code fingerprints, versions, and whole-or-nothing writes."""

from __future__ import annotations

import ast
import contextlib
import errno
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from statetx.checksums import settle
from statetx.errors import ResultsError

PACKAGE = "statetx"

NEVER_FOLLOWED = frozenset(
    {"config", "errors", "checksums", "documents", "provenance", "records", "stages"}
    | {"source_files", "packed_sources", "steps", "jobs", "cli", "cli_scores", "cli_stages"}
)
"""Modules whose text cannot change a number: settings reach a stage as parameters, messages and
provenance are not results. Following them would retrain every model for a reworded error."""

_SILENT_CALLS = frozenset(
    {"print", "log", "debug", "info", "warning", "warn", "error", "exception", "critical"}
    | {"update", "advance", "set_postfix", "set_description", "set_postfix_str"}
)
_SILENT_OWNERS = frozenset({"log", "logger", "logging", "console", "progress", "bar", "warnings"})


def digest(value: Any, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    # A file may have a name that is not text.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:length]


def as_json(value: Any) -> Any:
    """Return `value` as it comes back from a JSON file."""
    return json.loads(json.dumps(_plain(value), ensure_ascii=False))


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return `value` as JSON keeps it, with a ``digest`` of itself, for `unsealed`."""
    kept = as_json(value)
    return {**kept, "digest": digest(kept)}


def unsealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return what `sealed` was given.

    Raises
    ------
    ValueError
        The content is not that of its digest.
    """
    kept = {key: item for key, item in value.items() if key != "digest"}
    if value.get("digest") != digest(kept):
        raise ValueError("the content does not match its own digest")
    return kept


def file_digest(path: str | Path, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:length]


def versions(packages: Iterable[str] = ("statetx", "numpy", "pandas", "anndata")) -> dict[str, str]:
    """Return the installed version of each package, and of Python."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# ---------------------------------------------------------------------------------------------
# code fingerprints


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
    base = package_dir or Path(__file__).parent
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
        Dotted module names, such as ``statetx.evaluation.evaluate``.
    package_dir
        Directory of the package; the installed one by default.
    """
    modules = followed_modules(roots, package_dir)
    missing = [root for root in roots if root not in modules]
    if missing:
        raise ResultsError(f"no source found for the code root {missing[0]!r}")
    return digest([(module, _source(module, path).meaning) for module, path in modules.items()])


# ---------------------------------------------------------------------------------------------
# whole-or-nothing writes


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yield an empty directory; its files move to `directory` if the block succeeds.

    For tables that belong together but are not all there is in `directory`.

    Raises
    ------
    ResultsError
        The directory cannot be written to.
    """
    beside = directory if directory.is_dir() else directory.parent
    room = beside / f"{directory.name}.staged"
    with whole(room) as part:
        part.mkdir()
        yield part
        for file in sorted(part.rglob("*")):
            if file.is_file():
                target = directory / file.relative_to(part)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
    shutil.rmtree(room)


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place if the block succeeds.

    Works for files and for directories (create the yielded path as either). On any failure
    nothing is left behind and an earlier `path` is untouched.

    Raises
    ------
    ResultsError
        The directory cannot be written to, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ResultsError(
            f"cannot write here: {error.strerror}",
            where=target,
            fix="make the directory writable, free space, or choose another results directory",
        ) from error
    try:
        part = room / target.name
        yield part
        if not part.exists():
            raise ResultsError("nothing was written", where=target)
        _readable(part)
        settle()
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(part, target)
    except (OSError, RuntimeError) as error:
        if not no_room(error):
            raise
        raise ResultsError(
            "the disk is full; nothing half-made was left",
            where=target,
            fix="free disk space and run the same command again: what was finished is kept",
        ) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def sweep(path: str | Path) -> None:
    """Remove what attempts at `path` that were killed left beside it."""
    target = Path(path)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
        shutil.rmtree(left, ignore_errors=True)


def no_room(error: BaseException) -> bool:
    """Whether a write failed for want of room; HDF5 says so in the text of its errors only."""
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    number = getattr(error, "errno", None)
    return number in known or any(f"errno = {code}," in str(error) for code in known)


def _readable(part: Path) -> None:
    """Give files the permissions of ordinary ones: some writers make them readable by one user."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [part, *(part.rglob("*") if part.is_dir() else ())]:
        if path.is_file():
            path.chmod(0o666 & ~mask)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON (non-finite numbers as null), whole or not at all."""
    text = json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        text = json.dumps(
            _plain(value), indent=1, allow_nan=False
        )  # names of files that are not text
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
