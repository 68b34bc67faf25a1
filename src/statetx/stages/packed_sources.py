"""Comparison of the source files of a data set with the packed store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from statetx.config import Config
from statetx.core import digests
from statetx.core.documents import Wanted, read_json
from statetx.core.errors import ConfigError, ResultsError
from statetx.core.records import REMAKE, verify
from statetx.core.text_files import write_json
from statetx.stages.paths import pack_dir
from statetx.stages.source_files import source_files

READ_AT_ONCE = 1 << 30
"""Most bytes of source files that are compared while the workflow is parsed (about 10 s)."""


def cell_lines(cfg: Config, dataset: str) -> list[str]:
    """Return the cell lines in the source files of a data set, sorted.

    Parameters
    ----------
    cfg
        The configuration.
    dataset
        Name of the data set.
    """
    from statetx.data.simulate import line_names
    from statetx.data.store.layout import check_case, file_name

    section = cfg.datasets[dataset]
    if section.files == "simulate":
        return sorted(line_names(section.simulate))
    found = sorted(_source_lines(cfg, dataset))
    check_case(map(file_name, found), pack_dir(dataset))
    return found


def _source_lines(cfg: Config, dataset: str) -> set[str]:
    """Return the cell lines of the source files, cached by path, `stamp` and column."""
    from statetx.data.inspection import inspect as h5ad

    section, lines = cfg.datasets[dataset], set[str]()
    for path in map(Path, source_files(cfg, dataset)):
        cached = _about(path, ["lines", section.cell_type_key])
        known = _remembered(cached)
        if known is None:
            known = h5ad.cell_lines([path], section.cell_type_key)
            _remember(cached, known)
        lines |= set(known)
    return lines


def _remember(path: Path, what: Any) -> None:
    write_json(path, digests.sealed({"known": what}))


def _remembered(path: Path) -> Any:
    """Return the value that `_remember` stored, or None if the file is missing or damaged."""
    try:
        return digests.unsealed(json.loads(path.read_text(encoding="utf-8")))["known"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _about(path: Path, what: list[Any]) -> Path:
    """Return the file that caches a fact about a source file with its present `stamp`."""
    from statetx.data.pack.content import stamp

    key = digests.digest([str(path.absolute()), stamp(path), what])
    return Path(".state") / "inspect" / f"{key}.json"


def packed_contents(dataset: str) -> list[dict[str, Any]] | None:
    """Return the stamp and the content digest of every source file when it was packed.

    Parameters
    ----------
    dataset
        Name of the data set.

    Returns
    -------
    list or None
        None if the store does not exist. Empty if ``sources.json`` is damaged; the store is then
        packed again.
    """
    path = pack_dir(dataset) / "sources.json"
    if not (pack_dir(dataset) / "manifest.json").exists():
        return None
    try:
        sources = json.loads(verify(path).read_text(encoding="utf-8"))["sources"]
        return [
            {"stamp": [int(n) for n in source["stamp"]], "content": str(source["content"])}
            for source in sources
        ]
    except (ResultsError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def known_contents(cfg: Config, dataset: str) -> list[str | None]:
    """Return the content digest of every source file, or None where cells must be read for it.

    A file with the same size, modification time and inode as when it was packed or compared still
    has the same content.

    Parameters
    ----------
    cfg
        The configuration.
    dataset
        Name of the data set.
    """
    from statetx.data.pack.content import stamp

    packed = {tuple(item["stamp"]): item["content"] for item in packed_contents(dataset) or []}
    contents: list[str | None] = []
    for path in map(Path, source_files(cfg, dataset)):
        known = packed.get(tuple(stamp(path)))
        contents.append(known or _remembered(_content_file(cfg, dataset, path)))
    return contents


def _content_file(cfg: Config, dataset: str, path: Path) -> Path:
    from statetx.data.pack.survey import packed_settings

    return _about(path, ["content", packed_settings(cfg.datasets[dataset])])


def packed_as(path: Path) -> Any:
    """Return the state of the source files that made packing necessary, or None.

    The first packing stores the stamps of the files, later packings the contents that changed.
    ``content.json`` passes this state to packing, and ``sources.json`` stores it.

    Parameters
    ----------
    path
        ``content.json`` or ``sources.json``.
    """
    if not path.exists():
        return None
    try:
        content = read_json(path, Wanted("what was packed", ResultsError, REMAKE))
    except ResultsError:
        return None
    return content.get("packed_as") if isinstance(content, dict) else None


def _stamps(cfg: Config, dataset: str) -> list[list[Any]]:
    from statetx.data.pack.content import stamp

    return [[path, *stamp(Path(path))] for path in source_files(cfg, dataset)]


def sources_changed(cfg: Config, dataset: str) -> bool:
    """Return whether source files contain, or may contain, other cells than the store.

    If so, a job must compare them. Up to `READ_AT_ONCE` bytes are compared immediately, so that a
    dry run shows what will happen.

    Parameters
    ----------
    cfg
        The configuration.
    dataset
        Name of the data set.
    """
    if cfg.datasets[dataset].files == "simulate":
        return False
    packed = packed_contents(dataset)
    if packed is None:  # an interrupted packing may have left parts of files that changed since
        content = pack_dir(dataset) / "content.json"
        return content.exists() and packed_as(content) != _stamps(cfg, dataset)
    unknown = _unknown(cfg, dataset)
    if sum(path.stat().st_size for path in unknown) <= READ_AT_ONCE:
        _read(cfg, dataset, unknown)
    return known_contents(cfg, dataset) != [item["content"] for item in packed]


def _unknown(cfg: Config, dataset: str) -> list[Path]:
    """Return the source files whose content digest is not known."""
    files = map(Path, source_files(cfg, dataset))
    known = known_contents(cfg, dataset)
    return [path for path, content in zip(files, known, strict=True) if content is None]


def _read(cfg: Config, dataset: str, files: list[Path]) -> None:
    """Read source files and cache the digests of their content."""
    from statetx.data.pack.content import content_of

    for path in files:
        note = _content_file(cfg, dataset, path)
        content = content_of(path, cfg.datasets[dataset])
        if _content_file(cfg, dataset, path) != note:
            raise ResultsError(
                "the file changed while it was read",
                where=path,
                fix="wait until the file is complete, then run the same command again",
            )
        _remember(note, content)


def compare_sources(cfg: Config, dataset: str, out: Path) -> bool:
    """Read the source files whose content is not known, and write ``content.json``.

    Parameters
    ----------
    cfg
        The configuration.
    dataset
        Name of the data set.
    out
        ``content.json``. Its bytes change only if the content differs from the packed content, so
        moved, copied or touched files are not packed again.

    Returns
    -------
    bool
        Whether the data set must be packed: its content changed, or it was never packed.
    """
    packed = packed_contents(dataset)
    if packed is None:
        write_json(out, {"packed_as": _stamps(cfg, dataset)})
        return True
    _read(cfg, dataset, _unknown(cfg, dataset))
    now = known_contents(cfg, dataset)
    same = now == [item["content"] for item in packed]
    before = packed_as(pack_dir(dataset) / "sources.json")
    write_json(out, {"packed_as": before if same else now})
    return not same


def check_fresh(cfg: Config, dataset: str) -> None:
    """Check that the store was packed from the present content of the source files.

    The workflow packs again automatically. A command that runs a single stage calls this function,
    so that it does not use old cells.

    Parameters
    ----------
    cfg
        The configuration.
    dataset
        Name of the data set.

    Raises
    ------
    ResultsError
        A source file changed, or other files are configured.
    """
    if packed_contents(dataset) is None or cfg.datasets[dataset].files == "simulate":
        return  # the stage itself reports a missing store
    try:
        files = source_files(cfg, dataset)
    except ConfigError:
        return  # source files may be moved away after packing
    if not all(Path(path).exists() for path in files):
        return
    if sources_changed(cfg, dataset) and compare_sources(
        cfg, dataset, Path(".state") / "inspect" / f"{dataset}.content.json"
    ):
        packed = [item["content"] for item in packed_contents(dataset) or []]
        now = known_contents(cfg, dataset)
        other = [path for path, known in zip(files, now, strict=True) if known not in packed]
        raise ResultsError(
            "the store is stale: "
            + (f"{other[0]!r} contains other cells" if other else "other files are configured")
            + " than were packed",
            where=pack_dir(dataset) / "sources.json",
            fix=f"pack again: statetx pack --config … --run {dataset}",
        )
