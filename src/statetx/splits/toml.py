"""cell-load's split TOML: read it strictly, write it for any plan.

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

cell-load 0.10.4 ignores most mistakes in it: a misspelt line trains, a misspelt drug is dropped, an
unquoted ``[fewshot.demo.MCF7]`` holds nothing out. Each of these is an error here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from statetx.data.plan import ROLES
from statetx.errors import SplitError, did_you_mean
from statetx.provenance import write_text
from statetx.splits.findings import Findings, shown

TABLES = ("datasets", "training", "zeroshot", "fewshot")
QUOTED = 'put the name in quotes, as "dataset.line": otherwise TOML reads the dot as a nested table'


def resolve(
    content: dict[str, Any], conditions: pd.DataFrame, controls: list[str], log: Findings
) -> pd.DataFrame:
    """Apply a parsed TOML to the conditions that exist.

    Parameters
    ----------
    content
        The parsed file. Its data set may have any name: it stands for the one that `conditions`
        is about.
    conditions
        ``Store.conditions``.
    controls
        The control label and its aliases.
    log
        Gets every mistake; with errors in it the returned table must not be used.

    Returns
    -------
    pandas.DataFrame
        ``line, perturbation, role, reason``: a line in ``[zeroshot]`` has that role as a whole; of
        a line in ``[fewshot]`` the labels in ``val`` and ``test`` have that role and the rest
        trains; other lines train if ``[training]`` says so, and are left out otherwise.
    """
    _check_tables(content, log)
    tables = {name: _table(content, name) for name in TABLES}
    zeroshot = _zeroshot(tables["zeroshot"], log)
    fewshot = _fewshot(tables["fewshot"], log)
    _check_datasets(tables, [*zeroshot, *fewshot], log)
    trains = "train" in tables["training"].values()

    perturbed = conditions[~conditions["is_control"].astype(bool)]
    have: dict[str, list[str]] = {
        str(line): sorted(block["perturbation"].unique())
        for line, block in perturbed.groupby("line", sort=True)
    }
    lines = sorted(conditions["line"].unique())
    by_line = {line: role for (_, line), role in zeroshot.items()}
    by_label = {line: lists for (_, line), lists in fewshot.items()}
    for table, names in (("zeroshot", by_line), ("fewshot", by_label)):
        for line in sorted(set(names) - set(lines)):
            fix = did_you_mean(line, lines)
            log.error("unknown-line", f"no cell line {line!r} in the data", f"[{table}]", fix)
    for line in sorted(set(by_line) & set(by_label)):
        log.error(
            "line-twice",
            f"line {line!r} stands in [zeroshot] and in [fewshot]",
            "[fewshot]",
            "name it once: cell-load would ignore its [fewshot] table",
        )

    rows: list[tuple[str, str, str, str]] = []
    left_out = []
    for line in lines:
        labels = have.get(line, [])
        if line in by_line:
            rows += [(line, p, by_line[line], "zeroshot: the whole line") for p in labels]
        elif line in by_label:
            roles = _label_roles(line, by_label[line], labels, perturbed, controls, log)
            rest = ("train", "fewshot: not listed, so it trains")
            rows += [(line, p, *roles.get(p, rest)) for p in labels]
        elif trains:
            rows += [(line, p, "train", "training: the line is named nowhere else") for p in labels]
        else:
            left_out.append(line)
    if left_out:
        log.warning(
            "lines-left-out",
            f"{len(left_out)} lines are not used at all: {shown(left_out)}",
            "[training]",
            'write `dataset = "train"` in [training] for the remaining lines to train',
        )
    # A misspelt hold-out also empties the test set; the misspelling is the message that helps.
    if not log.errors and not any(role == "test" for _, _, role, _ in rows):
        log.error(
            "empty-test",
            "the test set is empty",
            "[zeroshot], [fewshot]",
            "hold out a line in [zeroshot] or some perturbations in [fewshot]",
        )
    return pd.DataFrame(rows, columns=["line", "perturbation", "role", "reason"], dtype=object)


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name, {})
    return value if isinstance(value, dict) else {}


def _check_tables(content: dict[str, Any], log: Findings) -> None:
    for name in content:
        if name not in TABLES:
            fix = did_you_mean(name, TABLES)
            log.error("unknown-table", f"unknown table [{name}]; nothing reads it", "", fix)
        elif not isinstance(content[name], dict):
            log.error("no-table", f"{name!r} is not a table", "", f"write [{name}] above its keys")


def _check_datasets(
    tables: dict[str, dict[str, Any]], held_out: list[tuple[str, str]], log: Findings
) -> None:
    known = list(tables["datasets"])
    for name, value in tables["datasets"].items():
        if not isinstance(value, str):
            log.error(
                "dataset-path",
                f"data set {name!r} is {value!r}, not a path in quotes",
                "[datasets]",
                "a name with a dot is read as a nested table: use a name without dots",
            )
        elif "." in name:
            log.error(
                "dotted-dataset",
                f"data set name {name!r} has a dot",
                "[datasets]",
                'use a name without dots: "dataset.line" is split at its first dot',
            )
    for name, value in tables["training"].items():
        if value != "train":
            log.error(
                "training-value",
                f"[training] {name} = {value!r} has no effect",
                "[training]",
                'the only value is "train"',
            )
    used: list[str] = sorted({*tables["training"], *(dataset for dataset, _ in held_out)})
    for name in used:
        if name not in known:
            fix = did_you_mean(name, known) + ", as listed in [datasets]"
            log.error("unknown-dataset", f"no data set {name!r}", "[datasets]", fix)
    if len({*used} & {*known}) > 1:
        log.error(
            "several-datasets",
            f"the file uses several data sets: {shown(used)}",
            "",
            "a split is about one data set: list all files under one name, or write one TOML each",
        )
    for name in known:
        if name not in used:
            log.error(
                "unused-dataset",
                f"data set {name!r} is listed but used nowhere",
                "[datasets]",
                f'write {name} = "train" in [training], or remove it',
            )


def _zeroshot(table: dict[str, Any], log: Findings) -> dict[tuple[str, str], str]:
    out = {}
    for key, value in table.items():
        dataset, dot, line = key.partition(".")
        if isinstance(value, dict):
            log.error("unquoted", f"[zeroshot] {key} is a nested table", "[zeroshot]", QUOTED)
        elif not (dataset and dot and line):
            log.error("no-line", f"{key!r} names no data set and line", "[zeroshot]", QUOTED)
        elif value not in ROLES:
            fix = did_you_mean(value, ROLES)
            log.error("bad-role", f"{key!r} = {value!r} is no role", "[zeroshot]", fix)
        else:
            out[dataset, line] = str(value)
    return out


def _fewshot(table: dict[str, Any], log: Findings) -> dict[tuple[str, str], dict[str, list[str]]]:
    out = {}
    for key, value in table.items():
        dataset, dot, line = key.partition(".")
        here = f'[fewshot."{key}"]'
        if not (dataset and dot and line):
            log.error("unquoted", f"[fewshot.{key}…] names no data set and line", here, QUOTED)
            continue
        if not isinstance(value, dict):
            log.error("no-table", f"{key!r} is no table", here, "give it `val` and `test` lists")
            continue
        lists: dict[str, list[str]] = {}
        for role, labels in value.items():
            if role not in ("val", "test"):
                fix = did_you_mean(role, ("val", "test")) + "; what is not listed trains"
                log.error("unknown-key", f"unknown key {role!r}", here, fix)
            elif not isinstance(labels, list) or not all(isinstance(p, str) for p in labels):
                log.error("no-list", f"{role} is not a list of labels in quotes", here)
            else:
                lists[role] = labels
        out[dataset, line] = lists
    return out


def _label_roles(
    line: str,
    lists: dict[str, list[str]],
    labels: list[str],
    perturbed: pd.DataFrame,
    controls: list[str],
    log: Findings,
) -> dict[str, tuple[str, str]]:
    """Return (role, reason) of every listed perturbation of a few-shot line."""
    here = f'[fewshot."….{line}"]'
    roles: dict[str, tuple[str, str]] = {}
    known = set(labels)
    elsewhere = set(perturbed["perturbation"])
    for role, listed in lists.items():
        for label in dict.fromkeys(listed):
            if label in controls:
                log.error(
                    "control-listed",
                    f"{role} lists the control {label!r}",
                    here,
                    "remove it: the controls of a line serve training, validation and test",
                )
            elif label not in known:
                note = "; other lines have it" if label in elsewhere else ""
                log.error(
                    "unknown-perturbation",
                    f"line {line!r} has no perturbation {label!r}{note}",
                    f"{here} {role}",
                    did_you_mean(label, labels),
                )
            elif label in roles and roles[label][0] != role:
                log.error(
                    "val-test-overlap",
                    f"{label!r} stands in val and in test",
                    here,
                    "keep it in one of the two",
                )
            else:
                roles[label] = (role, f"fewshot: listed in {role}")
    return roles


def write_toml(
    table: pd.DataFrame, conditions: pd.DataFrame, dataset: str, data: str, path: str | Path
) -> None:
    """Write a plan as a TOML that cell-load, and `resolve`, read back as the same plan.

    Parameters
    ----------
    table
        The plan.
    conditions
        ``Store.conditions``; tells whether a line is held out as a whole.
    dataset
        Name of the data set; dots become ``_``, because cell-load splits names at the first dot.
    data
        Path that stands under ``[datasets]``: the directory of the packed store.
    path
        File to write.

    Raises
    ------
    SplitError
        The plan leaves out some conditions of a line, which this format cannot say.
    """
    name = dataset.replace(".", "_")
    perturbed = conditions[~conditions["is_control"].astype(bool)]
    have = perturbed.groupby("line")["perturbation"].nunique()
    zeroshot: dict[str, str] = {}
    fewshot: dict[str, dict[str, list[str]]] = {}
    trains = []
    for line, block in table.groupby("line", sort=True):
        if len(block) != have[line]:
            raise SplitError(
                f"the plan uses {len(block)} of the {have[line]} conditions of line {line!r}",
                where=path,
                fix="cell-load's TOML can leave out whole lines only: give every condition a role",
            )
        roles = sorted(block["role"].unique())
        if roles == ["train"]:
            trains.append(line)
        elif len(roles) == 1:
            zeroshot[f"{name}.{line}"] = roles[0]
        else:
            fewshot[f"{name}.{line}"] = {
                role: sorted(block.loc[block["role"] == role, "perturbation"])
                for role in ("val", "test")
                if role in roles
            }
    content: dict[str, Any] = {"datasets": {name: data}, "training": {}}
    if set(have.index) == set(table["line"]):
        content["training"] = {name: "train"}
    else:  # "train" would also take the lines that the plan leaves out
        zeroshot |= {f"{name}.{line}": "train" for line in trains}
    content |= {"zeroshot": dict(sorted(zeroshot.items())), "fewshot": fewshot}
    write_text(path, tomli_w.dumps(content, multiline_strings=False))
