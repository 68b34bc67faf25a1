"""What the trained runs left behind, as far as a reader of the page wants to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from statetx.core.documents import Wanted, read_json
from statetx.core.errors import ResultsError
from statetx.core.records import verify
from statetx.reporting import numbers as words

LONGEST_LIST = 8
_FIELDS = ("split", "model", "seed", "path")


@dataclass(frozen=True)
class RunFiles:
    """One run and the model directory that it left.

    Attributes
    ----------
    split, model, seed
        The run's names, as in the configuration.
    path
        Its model directory (with ``model.json``, ``metrics.csv``, ``config.yaml``).
    """

    split: str
    model: str
    seed: int
    path: Path

    @property
    def title(self) -> str:
        """``model · split · seed 0``."""
        return f"{self.model} · {self.split} · seed {self.seed}"


@dataclass(frozen=True)
class RunStory:
    """One run as the page tells it."""

    title: str
    kind: str
    facts: list[tuple[str, str]]
    config: str


@dataclass(frozen=True)
class Curve:
    """A training curve, or why there is none."""

    title: str
    model: str
    table: pd.DataFrame | None
    chosen: int | None
    why_chosen: str
    why_not: str


def as_run_files(items: Sequence[RunFiles | Mapping[str, Any]]) -> list[RunFiles]:
    """Accept dataclasses and plain dicts alike.

    Raises
    ------
    ResultsError
        A key or the directory is missing.
    """
    runs = []
    for item in items:
        if isinstance(item, Mapping):
            missing = [key for key in _FIELDS if key not in item]
            if missing:
                raise ResultsError(
                    f"a run of the report has no {missing[0]!r}",
                    where=dict(item),
                    fix=f"every run needs {', '.join(_FIELDS)}",
                )
            item = RunFiles(item["split"], item["model"], int(item["seed"]), Path(item["path"]))
        if not item.path.is_dir():
            raise ResultsError(
                f"the run {item.title!r} has no model directory",
                where=item.path,
                fix="train it first, or leave it out of the report",
            )
        runs.append(item)
    return sorted(runs, key=lambda run: (run.split, run.model, run.seed))


def meta(run: RunFiles) -> dict[str, Any]:
    """Read model.json.

    Raises
    ------
    ResultsError
        It is missing or unreadable.
    """
    path = run.path / "model.json"
    what, fix = f"what the run {run.title!r} says about itself", "the model directory is incomplete"
    found = read_json(verify(path), Wanted(what, ResultsError, f"{fix}: train it again"))
    return found if isinstance(found, dict) else {}


def story(run: RunFiles) -> RunStory:
    """Collect what model.json and config.yaml say."""
    found = meta(run)
    config = run.path / "config.yaml"
    text = verify(config).read_text(encoding="utf-8") if config.is_file() else ""
    return RunStory(run.title, str(found.get("kind", "")), facts(found), text.strip())


def facts(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten JSON to (dotted key, text); a long list becomes its length."""
    out: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            if len(item) > 40:
                out.append((name, f"{len(item):,} entries"))
            elif item:
                out += facts(item, f"{name}.")
        elif isinstance(item, list):
            if len(item) > LONGEST_LIST or any(isinstance(part, dict | list) for part in item):
                out.append((name, f"{len(item):,} values"))
            else:
                out.append((name, ", ".join(map(str, item)) or words.NOTHING))
        else:
            out.append((name, words.NOTHING if item is None else str(item)))
    return out


def curve(run: RunFiles) -> Curve:
    """Read metrics.csv, tolerant of what is missing but never silent about it."""
    path = run.path / "metrics.csv"

    def none(why: str) -> Curve:
        return Curve(run.title, run.model, None, None, "", why)

    if not verify(path).is_file():
        return none("no training curve: trained without steps (no metrics.csv)")
    try:
        table = pd.read_csv(verify(path))
    except (ValueError, OSError, UnicodeDecodeError) as error:
        empty = isinstance(error, pd.errors.EmptyDataError)
        if empty:
            return none("no training curve: trained without steps (metrics.csv is empty)")
        return none(f"no training curve: metrics.csv cannot be read ({error})")
    losses = [c for c in ("train_loss", "val_loss") if c in table]
    for column in ["step", *losses]:
        if column in table:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    if table.empty:
        return none("no training curve: trained without steps (metrics.csv has no rows)")
    if "step" not in table or not losses:
        return none("no training curve: metrics.csv has no column step, train_loss or val_loss")
    table = table.dropna(subset="step").sort_values("step", kind="stable")
    if table[losses].isna().all(axis=None):
        return none("no training curve: metrics.csv holds no finite loss")
    return Curve(run.title, run.model, table, *_chosen(meta(run), table), "")


def _chosen(found: Mapping[str, Any], table: pd.DataFrame) -> tuple[int | None, str]:
    """(step, reason) of ``best``: what model.json says, else the lowest validation loss."""
    checkpoints = found.get("checkpoints")
    best = checkpoints.get("best") if isinstance(checkpoints, Mapping) else None
    if isinstance(best, Mapping) and words.is_number(best.get("step")):
        return int(best["step"]), str(best.get("why") or "model.json does not say why")
    if "val_loss" in table and table["val_loss"].notna().any():
        step = int(table["step"].to_numpy()[table["val_loss"].argmin()])
        return step, "lowest validation loss in metrics.csv; model.json does not name the step"
    return None, "nothing says which step was chosen"


def grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """(reason, names) in order of appearance, every name once per reason."""
    found: dict[str, list[str]] = {}
    for reason, name in pairs:
        names = found.setdefault(reason, [])
        if name not in names:
            names.append(name)
    return list(found.items())
