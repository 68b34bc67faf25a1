"""Stale results: those made by other code, with other settings or from other inputs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from statetx.config import Config
from statetx.core import digests, records
from statetx.core.errors import ConfigError, ResultsError, StatetxError
from statetx.stages.steps import Step, all_steps, packed_lines, train_step


def stale(cfg: Config) -> dict[Path, str]:
    """Return the outputs that must be remade, with the reason for each.

    Outputs that do not exist yet are included, because Snakemake makes them anyway.

    Parameters
    ----------
    cfg
        The configuration.
    """
    reasons: dict[Path, str] = {}
    checksums = cache(_recorded)
    for step in all_steps(cfg):
        why = _why_stale(step, checksums)
        if why is not None:
            reasons |= dict.fromkeys(step.outputs, why)
    return reasons


def check_frozen(cfg: Config) -> list[str]:
    """Check that every frozen model was trained.

    Parameters
    ----------
    cfg
        The configuration.

    Returns
    -------
    list of str
        One sentence per frozen model whose code or settings changed since it was trained.

    Raises
    ------
    ConfigError
        A frozen model was never trained.
    """
    changed = []
    for run in cfg.runs():
        if not cfg.models[run.model].frozen:
            continue
        step = train_step(cfg, run)
        directory = step.outputs[0]
        if not (directory / "model.json").is_file():
            raise ConfigError(
                f"model {run.model!r} is frozen, but it was never trained",
                where=f"models.{run.model}.frozen; {directory}",
                fix="set `frozen: false`, train the model, then freeze it; or copy its directory "
                "to this path",
            )
        if (reason := _why_stale(step, lambda _: None)) is not None:
            changed.append(f"{directory} is frozen and kept although {reason}")
    return changed


def refuse_stale_inputs(cfg: Config, step: Step) -> None:
    """Check that the inputs of a step are those that this configuration makes.

    The inputs of the inputs are checked too, up to the source data.

    Parameters
    ----------
    cfg
        The configuration.
    step
        The step that is about to run.

    Raises
    ------
    ResultsError
        An input was made with other settings, other code or from other files.
    """
    if not all(path.exists() for path in step.inputs):
        return  # the stage itself reports a missing input
    made = {path: other for other in all_steps(cfg, packed_lines) for path in other.outputs}
    checksums = cache(_recorded)
    waiting, seen = list(step.inputs), set()
    while waiting:
        path = waiting.pop()
        other = made.get(path)
        if other is None or other.record in seen:
            continue
        seen.add(other.record)
        if other.stage == "simulate" and not other.record.exists():
            continue  # cells that the command `statetx simulate` wrote have no record
        if (why := _why_stale(other, checksums)) is not None:
            raise ResultsError(
                f"{path.name} is not what this configuration makes: {why}",
                where=path,
                fix=f"run snakemake, or stage {other.stage} and all stages after it",
            )
        waiting.extend(other.inputs)


def _why_stale(step: Step, checksums: Any) -> str | None:
    for path in step.outputs:
        if not path.exists():
            return f"{path} does not exist"
    try:
        record = records.read_record(step.record)
    except ResultsError as error:
        return error.what
    if record.code != step.code:
        return f"the code of {step.stage} changed"
    if record.settings != digests.as_json(step.settings):
        return f"the settings of {step.stage} changed"
    for name, (size, _) in record.files.items():
        file = step.record.parent / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{file} is not the file that was written"
    known = {records.resolved(step.record, name): value for name, value in record.inputs.items()}
    for path in step.inputs:
        now, recorded = checksums(path), known.get(Path(path).absolute())
        if now is not None and now != recorded:
            return f"{path} changed"
    return None


def _recorded(path: Path) -> str | None:
    """Return the checksum of an input by its record, or None if the input will be remade."""
    if path.name != "content.json" and not records.record_path(path).exists():
        return None  # reading a whole store would take as long as making its record
    try:
        return records.known_checksum(path)
    except (StatetxError, OSError):
        return None
