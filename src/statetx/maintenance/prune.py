"""Removal of step checkpoints that are not needed, with the reason and the size of each file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from statetx.core import locks
from statetx.core.errors import ConfigError, ResultsError, did_you_mean
from statetx.core.text_files import write_json

FORMAT = 1
MODEL_FILES = ("model.json", "genes.txt", "golden.npz", "best.safetensors")
"""Files of a complete model directory. Without them, step checkpoints may be the only weights."""

_STEP_FILE = re.compile(r"step=(\d+)\.safetensors")
_STEP = re.compile(r"step=(\d+)")


def prune(
    run_dir: str | Path, keep: list[str], delete: bool = False, out: str | Path | None = None
) -> dict[str, Any]:
    """List the step checkpoints of a run that are not needed, and delete them if asked to.

    Only files ``checkpoints/step=<N>.safetensors`` are ever deleted. ``best`` and ``last`` are in
    ``model/``, which is never changed.

    Parameters
    ----------
    run_dir
        Directory of a run: contains ``model/`` and perhaps ``checkpoints/``.
    keep
        Checkpoints to keep, ``best``, ``last`` or ``step=N``: those in the configuration and those
        that a stage still needs.
    delete
        Whether to delete the files; otherwise they are only listed.
    out
        JSON file to which the manifest is written too.

    Returns
    -------
    dict
        Manifest: ``format``, ``mode`` (``dry-run`` or ``delete``), ``keep``, ``files`` (each with
        ``path`` inside the run, ``action``, ``reason``, ``bytes``), ``missing`` (names in `keep`
        that the run does not have), ``bytes_kept``, ``bytes_freed`` (in a dry run, the bytes that
        a deletion would free).

    Raises
    ------
    ConfigError
        A name in `keep` is not a checkpoint name.
    ResultsError
        The model directory is missing or incomplete, the run or its checkpoints are a link,
        another process trains the run, or a file cannot be deleted. Except in the last case,
        nothing is deleted.
    """
    run = Path(run_dir)
    steps = _asked(keep)
    _check_place(run)
    if not delete:
        return _prune(run, keep, steps, False, out)
    with locks.held(locks.beside(run), f"the run {run}"):
        return _prune(run, keep, steps, True, out)


def _prune(
    run: Path, keep: list[str], steps: set[int], delete: bool, out: str | Path | None
) -> dict[str, Any]:
    checkpoints = run / "checkpoints"
    found = sorted(path for path in checkpoints.glob("*") if path.is_file() or path.is_symlink())
    trained = any(_STEP_FILE.fullmatch(path.name) for path in found)
    _check_model(run / "model", steps=trained)

    files = [
        _entry(run, path, "keep", "the model directory is never pruned")
        for path in sorted((run / "model").rglob("*"))
        if path.is_file()
    ]
    doomed = []
    for path in found:
        match = _STEP_FILE.fullmatch(path.name)
        if match is None:
            files.append(_entry(run, path, "keep", "not a step checkpoint"))
        elif int(match[1]) in steps:
            files.append(_entry(run, path, "keep", f"asked for: step={int(match[1])}"))
        else:
            files.append(_entry(run, path, "delete", "a step checkpoint that nothing asked for"))
            doomed.append(path)

    weights = [*checkpoints.glob("*.safetensors"), *(run / "model").glob("*.safetensors")]
    there = {path.stem for path in weights}
    manifest = {
        "format": FORMAT,
        "mode": "delete" if delete else "dry-run",
        "keep": sorted(set(keep)),
        "files": files,
        "missing": sorted(set(keep) - there),
        "bytes_kept": sum(item["bytes"] for item in files if item["action"] == "keep"),
        "bytes_freed": sum(item["bytes"] for item in files if item["action"] == "delete"),
    }
    if delete:
        for path in doomed:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ResultsError(
                    f"cannot delete a checkpoint: {error.strerror}",
                    where=path,
                    fix="make the directory writable, then run the same command again; the "
                    "checkpoints before this one are deleted already",
                ) from error
    if out is not None:
        write_json(out, manifest)
    return manifest


def text(manifest: dict[str, Any]) -> str:
    """Return the step checkpoints and totals of a manifest as text for the terminal.

    Parameters
    ----------
    manifest
        Result of `prune`.
    """
    lines = [
        f"{item['action']:6}  {item['bytes']:>14,} bytes  {item['path']}  ({item['reason']})"
        for item in manifest["files"]
        if not item["path"].startswith("model/")
    ]
    if manifest["missing"]:
        lines.append(f"asked for, but not in this run: {', '.join(manifest['missing'])}")
    verb = "freed" if manifest["mode"] == "delete" else "would be freed (dry run)"
    lines.append(f"{manifest['bytes_freed']:,} bytes {verb}, {manifest['bytes_kept']:,} kept")
    return "\n".join(lines)


def _asked(keep: list[str]) -> set[int]:
    steps = set()
    for name in keep:
        match = _STEP.fullmatch(name)
        if match:
            steps.add(int(match[1]))
        elif name not in ("best", "last"):
            raise ConfigError(
                f"{name!r} is not a checkpoint name",
                where="prune.keep",
                fix=did_you_mean(name, ["best", "last", "step=N"]),
            )
    return steps


def _entry(run: Path, path: Path, action: str, reason: str) -> dict[str, Any]:
    size = path.lstat().st_size
    where = path.relative_to(run).as_posix()
    return {"path": where, "action": action, "reason": reason, "bytes": size}


def _check_place(run: Path) -> None:
    """Check that the run is a directory, not a link: a link leads to files of another run."""
    for place in (run, run / "checkpoints"):
        if place.is_symlink():
            raise ResultsError(
                f"this is a link to {str(place.readlink())!r}; statetx does not delete through "
                "links",
                where=place,
                fix="give the path that the link points to",
            )
    if not run.is_dir():
        raise ResultsError(
            "this run does not exist",
            where=run,
            fix="give the directory results/DATASET/SPLIT/MODEL/seedN",
        )


def _check_model(model: Path, *, steps: bool) -> None:
    """Check that the model directory is complete.

    Otherwise the step checkpoints may be the only weights of the run.
    """
    fix = "let the run finish training (or train it again) before pruning; nothing was deleted"
    if not model.is_dir():
        raise ResultsError("the run does not have a finished model", where=model, fix=fix)
    needed = [*MODEL_FILES, *(["last.safetensors"] if steps else [])]
    missing = [name for name in needed if not (model / name).is_file()]
    if missing:
        raise ResultsError(
            f"the model directory is incomplete: {', '.join(missing)} missing",
            where=model,
            fix=fix,
        )
    try:
        json.loads((model / "model.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(
            f"model.json cannot be read: {error}", where=model / "model.json", fix=fix
        ) from error
    for path in sorted(model.glob("*.safetensors")):
        if not _is_whole(path):
            raise ResultsError("the weights are truncated", where=path, fix=fix)


def _is_whole(path: Path) -> bool:
    """Return whether a safetensors file has the length that its header states."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > size - 8:
            return False
        try:
            header = json.loads(handle.read(length))
        except ValueError:
            return False
    ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)
