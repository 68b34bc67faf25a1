"""The split TOML of cell-load: read every file that cell-load accepts, and write any plan.

The file says which cell lines of which data set train, validate and test::

    [datasets]
    demo = "results/demo/pack"

    [training]
    demo = "train"                    # every line that is not named below trains

    [zeroshot]
    "demo.A549" = "test"              # the whole line

    [fewshot."demo.MCF7"]             # some perturbations of a line; the rest of it trains
    val = ["Drug01_0.5"]
    test = ["Drug02_0.5", "Drug02_5"]

cell-load 0.10.4 ignores most mistakes in the file. A misspelt line trains, a misspelt drug is
dropped, and an unquoted ``[fewshot.demo.MCF7]`` holds nothing out. `parse` reads the unquoted table
as if it were quoted; the other mistakes are errors. statetx adds a table ``[statetx]``, which
cell-load does not read. It says what a file was made from, and which labels in ``val`` are only
kept out of training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from statetx.core.errors import SplitError, did_you_mean
from statetx.core.text_files import write_text
from statetx.data.store.plan import ROLES
from statetx.splits.findings import Findings, shown
from statetx.splits.grid import LEFT_OUT

TABLES = ("datasets", "training", "zeroshot", "fewshot")
OWN = "statetx"
QUOTED = 'put the name in quotes, as "dataset.line": otherwise TOML reads the dot as a nested table'


@dataclass(frozen=True)
class SplitFile:
    """The content of a split TOML.

    Attributes
    ----------
    datasets
        Path by data set.
    training
        Data sets whose lines train, except lines that are named elsewhere in the file.
    zeroshot
        Role by ``dataset.line``.
    fewshot
        By ``dataset.line``: the labels of ``val`` and of ``test``.
    left_out
        By ``dataset.line``: labels that are listed in ``val`` for cell-load but have no role.
    made_from
        Origin of the file, for readers.
    """

    datasets: dict[str, str] = field(default_factory=dict)
    training: tuple[str, ...] = ()
    zeroshot: dict[str, str] = field(default_factory=dict)
    fewshot: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def used(self) -> list[str]:
        """Names of the data sets that the file splits, sorted."""
        named = {key.partition(".")[0] for key in [*self.zeroshot, *self.fewshot]}
        return sorted({*self.training, *named})

    def part_of(self, table: Mapping[str, Any], dataset: str) -> dict[str, Any]:
        """Return the entries of `zeroshot`, `fewshot` or `left_out` for a data set, by line."""
        split = {key: key.partition(".") for key in table}
        return {split[key][2]: value for key, value in table.items() if split[key][0] == dataset}

    def text(self) -> str:
        """Return the text of the file, readable by cell-load and by `parse`."""
        content: dict[str, Any] = {
            "datasets": self.datasets,
            "training": dict.fromkeys(self.training, "train"),
            "zeroshot": self.zeroshot,
            "fewshot": self.fewshot,
        }
        ours: dict[str, Any] = {"made_from": self.made_from, "left_out": self.left_out}
        if any(ours.values()):
            content[OWN] = {key: value for key, value in ours.items() if value}
        return tomli_w.dumps(content, multiline_strings=False)


def parse(content: Mapping[str, Any], log: Findings) -> SplitFile:
    """Convert the parsed content of a TOML to a `SplitFile`.

    Parameters
    ----------
    content
        From `tomllib`.
    log
        Gets every mistake in the form of the file. Names are not checked, because that needs data.
    """
    for name, value in content.items():
        if name not in (*TABLES, OWN):
            fix = did_you_mean(name, TABLES)
            log.found("unknown-table", f"the table [{name}] is unknown and not read", "", fix)
        elif not isinstance(value, dict):
            log.found("no-table", f"{name!r} is not a table", "", f"write [{name}] above its keys")
    tables: dict[str, dict[str, Any]] = {
        name: value if isinstance(value := content.get(name, {}), dict) else {}
        for name in (*TABLES, OWN)
    }
    left_out = _left_out(tables, log)
    read = SplitFile(
        _datasets(tables["datasets"], log),
        _training(tables["training"], log),
        _zeroshot(tables["zeroshot"], log),
        _fewshot(tables["fewshot"], log),
        left_out,
        _table(tables[OWN], "made_from", log),
    )
    _check_use(read, log)
    return read


def _datasets(table: dict[str, Any], log: Findings) -> dict[str, str]:
    out = {}
    for name, value in table.items():
        if not isinstance(value, str):
            log.found(
                "dataset-path",
                f"data set {name!r} is {value!r}, not a path in quotes",
                "[datasets]",
                "use a name without dots: TOML reads a name with a dot as a nested table",
            )
        elif "." in name:
            log.found(
                "dotted-dataset",
                f"data set name {name!r} has a dot",
                "[datasets]",
                'use a name without dots: "dataset.line" is split at its first dot',
            )
        else:
            out[name] = value
    return out


def _training(table: dict[str, Any], log: Findings) -> tuple[str, ...]:
    for name, value in table.items():
        if value != "train":
            log.found(
                "training-value",
                f"[training] {name} = {value!r} has no effect",
                "[training]",
                'set it to "train", the only value',
            )
    return tuple(name for name, value in table.items() if value == "train")


def _flat(table: dict[str, Any], name: str, log: Findings) -> dict[str, Any]:
    """Return a table of lines, in which names that were read as nested tables are joined again."""
    quoted: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    lists = name == "fewshot"

    def leaf(value: Any) -> bool:
        return not isinstance(value, dict) or (
            lists and not (value and all(isinstance(inner, dict) for inner in value.values()))
        )

    def walk(key: str, value: Any, out: dict[str, Any]) -> None:
        if leaf(value):
            out[key] = value
        elif not value:
            log.found("no-line", f"{key!r} names no line", f"[{name}]", QUOTED)
        else:
            for inner, below in value.items():
                walk(f"{key}.{inner}", below, nested)

    for key, value in table.items():
        walk(key, value, quoted)
    for key in nested:
        log.found("unquoted", f"{key!r} was read from nested tables", f"[{name}]", QUOTED)
    for key in nested.keys() & quoted.keys():
        what = f"{key!r} is listed twice, with and without quotes"
        log.found("line-twice", what, f"[{name}]", "name it once")
    return nested | quoted


def _zeroshot(table: dict[str, Any], log: Findings) -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in _flat(table, "zeroshot", log).items():
        dataset, _, line = key.partition(".")
        if not (dataset and line):
            log.found("no-line", f"{key!r} names no data set and line", "[zeroshot]", QUOTED)
        elif value not in ROLES:
            fix = did_you_mean(value, ROLES)
            log.found("bad-role", f"{key!r} = {value!r} is not a role", "[zeroshot]", fix)
        else:
            out[key] = str(value)
    return out


def _fewshot(table: dict[str, Any], log: Findings) -> dict[str, dict[str, list[str]]]:
    out: dict[str, dict[str, list[str]]] = {}
    for key, value in _flat(table, "fewshot", log).items():
        dataset, _, line = key.partition(".")
        place = f'[fewshot."{key}"]'
        if not (dataset and line):
            log.found("no-line", f"[fewshot.{key}] names no data set and line", place, QUOTED)
        elif not isinstance(value, dict):
            log.found(
                "no-table", f"{key!r} is not a table", place, "give it `val` and `test` lists"
            )
        else:
            out[key] = _lists(value, place, log)
    return out


def _lists(table: dict[str, Any], place: str, log: Findings) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for role, labels in table.items():
        if role not in ("val", "test"):
            fix = did_you_mean(role, ("val", "test")) + "; labels that are not listed train"
            log.found("unknown-key", f"unknown key {role!r}", place, fix)
        elif not isinstance(labels, list) or not all(isinstance(p, str) for p in labels):
            odd = [x for x in labels if not isinstance(x, str)] if isinstance(labels, list) else []
            what = (
                f"holds {odd[0]!r}, which is not text"
                if odd
                else "is not a list of labels in quotes"
            )
            fix = f'write it in quotes: "{odd[0]}"' if odd else f'write {role} = ["label", "other"]'
            log.found("no-list", f"{role} {what}", place, fix)
        else:
            again = sorted(label for label, n in Counter(labels).items() if n > 1)
            if again:
                log.found("repeated-entry", f"{role} repeats {shown(again)}", place)
            lists[role] = labels
    return lists


def _table(tables: dict[str, Any], name: str, log: Findings) -> dict[str, Any]:
    value = tables.get(name, {})
    if not isinstance(value, dict):
        log.found("no-table", f"{name!r} is not a table", f"[{OWN}]", "remove it")
        return {}
    return value


def _left_out(tables: dict[str, dict[str, Any]], log: Findings) -> dict[str, list[str]]:
    """Return the labels that `write_toml` put into ``val`` to keep them out of training."""
    for key in tables[OWN].keys() - {"left_out", "made_from"}:
        log.found("unknown-key", f"unknown key {key!r}", f"[{OWN}]", "remove it")
    out = {}
    for key, labels in _table(tables[OWN], "left_out", log).items():
        place = f'[{OWN}.left_out] "{key}"'
        lists = tables["fewshot"].get(key, {})
        held = lists.get("val", []) if isinstance(lists, dict) else []
        if not isinstance(labels, list) or not all(isinstance(p, str) for p in labels):
            log.found("no-list", f"{key!r} is not a list of labels in quotes", place)
            continue
        strange = [label for label in labels if label not in held]
        if strange:
            log.found(
                "unknown-perturbation",
                f"{shown(strange)} are left out but not listed in val of that line",
                place,
                "list labels that are left out in val, too",
            )
        out[key] = labels
    return out


def _check_use(read: SplitFile, log: Findings) -> None:
    known = list(read.datasets)
    for name in read.used:
        if name not in known:
            fix = did_you_mean(name, known) + ", as listed in [datasets]"
            log.found("unknown-dataset", f"no data set {name!r}", "[datasets]", fix)
    for name in known:
        if name not in read.used:
            log.found(
                "unused-dataset",
                f"data set {name!r} is listed but used nowhere",
                "[datasets]",
                f'write {name} = "train" in [training], or remove it',
            )
    for key in sorted(set(read.zeroshot) & set(read.fewshot)):
        log.found(
            "line-twice",
            f"line {key.partition('.')[2]!r} is listed in [zeroshot] and in [fewshot]",
            "[fewshot]",
            "name it once: cell-load would ignore its [fewshot] table",
        )


def write_toml(
    table: pd.DataFrame,
    conditions: pd.DataFrame,
    dataset: str,
    data: str,
    path: str | Path,
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Write a plan as a TOML that cell-load, and `resolve`, read back.

    The format cannot leave out single conditions of a line. They are written under ``val``, where
    cell-load neither trains on them nor tests them. They are also written to the table
    ``[statetx]``, from which `resolve` knows that they have no role.

    Parameters
    ----------
    table
        The plan; role ``none``, or no row, for conditions that are left out.
    conditions
        ``Store.conditions``; shows whether a line is held out as a whole.
    dataset
        Name of the data set. Dots become ``_``, because cell-load splits names at the first dot.
    data
        Path to write under ``[datasets]``: the directory of the packed store.
    path
        File to write.
    made_from
        Origin of the split, as JSON values; None values are omitted.
    """
    write_text(path, plan_file(table, conditions, dataset, data, made_from or {}).text())


def plan_file(
    table: pd.DataFrame,
    conditions: pd.DataFrame,
    dataset: str,
    data: str,
    made_from: Mapping[str, Any],
) -> SplitFile:
    """Return the content that `write_toml` writes; its parameters are explained there."""
    name = dataset.replace(".", "_")
    if (conditions["line"] == "").any():
        raise SplitError("a cell line has no name", where=data, fix="name it in obs")
    perturbed = conditions[~conditions["is_control"].astype(bool)]
    pairs = perturbed[["line", "perturbation"]].drop_duplicates()
    full = pairs.merge(table, on=["line", "perturbation"], how="left")
    full["role"] = full["role"].fillna(LEFT_OUT)
    zeroshot: dict[str, str] = {}
    fewshot: dict[str, dict[str, list[str]]] = {}
    left_out: dict[str, list[str]] = {}
    trains, unused = [], []
    for line, block in full.groupby("line", sort=True):
        key, roles = f"{name}.{line}", set(block["role"])
        if roles == {LEFT_OUT}:
            unused.append(key)
        elif roles == {"train"}:
            trains.append(key)
        elif len(roles) == 1:
            zeroshot[key] = roles.pop()
        else:
            by_role = {role: sorted(part["perturbation"]) for role, part in block.groupby("role")}
            val = sorted([*by_role.get("val", []), *by_role.get(LEFT_OUT, [])])
            lists = {"val": val, "test": by_role.get("test", [])}
            fewshot[key] = {role: labels for role, labels in lists.items() if labels}
            if LEFT_OUT in by_role:
                left_out[key] = by_role[LEFT_OUT]
    if unused:  # "train" in [training] would also train the lines that the plan leaves out
        zeroshot |= dict.fromkeys(trains, "train")
    return SplitFile(
        {name: data},
        () if unused else (name,),
        dict(sorted(zeroshot.items())),
        fewshot,
        left_out,
        {key: value for key, value in made_from.items() if value is not None},
    )


def in_order(value: Any) -> Any:
    """Sort keys and lists and drop repeats, because order has no meaning in a split TOML."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(set(value))
    return value
