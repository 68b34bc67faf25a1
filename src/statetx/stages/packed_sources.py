"""Source files of a data set: their cell lines, and whether they still hold what was packed."""

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
"""Bytes of source files that are compared while the workflow is parsed: some 10 s."""


def cell_lines(cfg: Config, dataset: str) -> list[str]:
    """The cell lines of a data set, sorted."""
    from statetx.data.simulate import line_names
    from statetx.data.store.layout import check_case, file_name

    section = cfg.datasets[dataset]
    if section.files == "simulate":
        return sorted(line_names(section.simulate))
    found = sorted(_source_lines(cfg, dataset))
    check_case(map(file_name, found), pack_dir(dataset))
    return found


def _source_lines(cfg: Config, dataset: str) -> set[str]:
    """The cell lines of the source files, cached by path, size and modification time."""
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
    """Return what `_remember` kept, or None: it is asked for again where the note is damaged."""
    try:
        return digests.unsealed(json.loads(path.read_text(encoding="utf-8")))["known"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _about(path: Path, what: list[Any]) -> Path:
    """Where something known of a source file is kept, while its size and times stay."""
    from statetx.data.pack.content import stamp

    key = digests.digest([str(path.absolute()), stamp(path), what])
    return Path(".state") / "inspect" / f"{key}.json"


def packed_contents(dataset: str) -> list[dict[str, Any]] | None:
    """What the store says of the files that it was packed from; None: there is no store.

    Nothing where it does not say so soundly: then the store is packed again.
    """
    path = pack_dir(dataset) / "sources.json"
    if not (pack_dir(dataset) / "manifest.json").exists():
        return None
    try:
        found = json.loads(verify(path).read_text(encoding="utf-8"))["sources"]
        return [
            {"stamp": [int(n) for n in one["stamp"]], "content": str(one["content"])}
            for one in found
        ]
    except (ResultsError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def known_contents(cfg: Config, dataset: str) -> list[str | None]:
    """Digest of the content of every source file, as far as it is known without reading cells.

    A file that has the size, modification time and inode with which it was packed, or read to be
    compared, still has that content.
    """
    from statetx.data.pack.content import stamp

    packed = {tuple(one["stamp"]): one["content"] for one in packed_contents(dataset) or []}
    found: list[str | None] = []
    for path in map(Path, source_files(cfg, dataset)):
        known = packed.get(tuple(stamp(path)))
        found.append(known or _remembered(_content_file(cfg, dataset, path)))
    return found


def _content_file(cfg: Config, dataset: str, path: Path) -> Path:
    from statetx.data.pack.survey import packed_settings

    return _about(path, ["content", packed_settings(cfg.datasets[dataset])])


def packed_as(path: Path) -> Any:
    """Return what made packing necessary: stamps of the files at first, contents that changed later.

    ``content.json`` says it to packing, ``sources.json`` keeps it.
    """
    if not path.exists():
        return None
    try:
        found = read_json(path, Wanted("what was packed", ResultsError, REMAKE))
    except ResultsError:
        return None
    return found.get("packed_as") if isinstance(found, dict) else None


def _stamps(cfg: Config, dataset: str) -> list[list[Any]]:
    from statetx.data.pack.content import stamp

    return [[path, *stamp(Path(path))] for path in source_files(cfg, dataset)]


def sources_changed(cfg: Config, dataset: str) -> bool:
    """Whether source files hold other cells than the store, or may: then a job must compare them.

    Up to `READ_AT_ONCE` bytes are compared right away, so that a dry run says what will happen.
    """
    if cfg.datasets[dataset].files == "simulate":
        return False
    packed = packed_contents(dataset)
    if packed is None:  # an interrupted packing may have parts of files as they were then
        asked = pack_dir(dataset) / "content.json"
        return asked.exists() and packed_as(asked) != _stamps(cfg, dataset)
    unknown = _unknown(cfg, dataset)
    if sum(path.stat().st_size for path in unknown) <= READ_AT_ONCE:
        _read(cfg, dataset, unknown)
    return known_contents(cfg, dataset) != [one["content"] for one in packed]


def _unknown(cfg: Config, dataset: str) -> list[Path]:
    """Return the source files whose content is not known."""
    files = map(Path, source_files(cfg, dataset))
    known = known_contents(cfg, dataset)
    return [path for path, content in zip(files, known, strict=True) if content is None]


def _read(cfg: Config, dataset: str, files: list[Path]) -> None:
    """Read source files and keep what they hold."""
    from statetx.data.pack.content import content_of

    for path in files:
        note = _content_file(cfg, dataset, path)
        content = content_of(path, cfg.datasets[dataset])
        if _content_file(cfg, dataset, path) != note:
            raise ResultsError(
                "the file changed while it was read",
                where=path,
                fix="wait until it is complete, then start the same command again",
            )
        _remember(note, content)


def compare_sources(cfg: Config, dataset: str, out: Path) -> bool:
    """Read the source files whose content is not known, and say whether to pack again.

    Parameters
    ----------
    out
        ``content.json``: its bytes change only if the content differs from what was packed, so
        that files that were merely moved, copied or touched repack nothing.

    Returns
    -------
    bool
        Whether the content differs from what was packed, or nothing was packed yet.
    """
    packed = packed_contents(dataset)
    if packed is None:
        write_json(out, {"packed_as": _stamps(cfg, dataset)})
        return True
    _read(cfg, dataset, _unknown(cfg, dataset))
    now = known_contents(cfg, dataset)
    same = now == [one["content"] for one in packed]
    before = packed_as(pack_dir(dataset) / "sources.json")
    write_json(out, {"packed_as": before if same else now})
    return not same


def check_fresh(cfg: Config, dataset: str) -> None:
    """Check that the store was packed from what the source files hold now.

    The workflow packs again by itself; commands that run one stage must not go on with old cells.

    Raises
    ------
    ResultsError
        A source file changed, or another set of files is configured.
    """
    if packed_contents(dataset) is None or cfg.datasets[dataset].files == "simulate":
        return  # whoever needs the store says so
    try:
        files = source_files(cfg, dataset)
    except ConfigError:
        return  # sources may move away once they are packed
    if not all(Path(path).exists() for path in files):
        return
    if sources_changed(cfg, dataset) and compare_sources(
        cfg, dataset, Path(".state") / "inspect" / f"{dataset}.content.json"
    ):
        packed = [one["content"] for one in packed_contents(dataset) or []]
        now = known_contents(cfg, dataset)
        other = [path for path, known in zip(files, now, strict=True) if known not in packed]
        raise ResultsError(
            "the store is stale: "
            + (f"{other[0]!r} holds other cells" if other else "other files are configured")
            + " than were packed",
            where=pack_dir(dataset) / "sources.json",
            fix=f"pack again: statetx pack --config … --run {dataset}",
        )
