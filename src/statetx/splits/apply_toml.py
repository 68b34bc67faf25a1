"""Apply a split TOML to the conditions that exist."""

from __future__ import annotations

import pandas as pd

from statetx.core.errors import did_you_mean
from statetx.data.store.plan import COLUMNS
from statetx.shared.labels import WITH_DOSES, Reading
from statetx.splits.findings import Findings, shown
from statetx.splits.grid import LEFT_OUT
from statetx.splits.toml import SplitFile


def roles_from_toml(
    file: SplitFile, dataset: str, conditions: pd.DataFrame, controls: list[str], log: Findings
) -> pd.DataFrame:
    """Give every condition of a data set the role that a split TOML gives it.

    Parameters
    ----------
    file
        The TOML. If it splits a single data set, that data set is used under any name. Otherwise
        the data set with the name `dataset` is used.
    dataset
        Name of the data set.
    conditions
        ``Store.conditions``.
    controls
        The control label and its aliases.
    log
        Gets every name that does not fit. If it contains errors, do not use the returned table.

    Returns
    -------
    pandas.DataFrame
        ``line, perturbation, role, reason``. All conditions of a line in ``[zeroshot]`` have its
        role. For a line in ``[fewshot]``, the labels in ``val`` and ``test`` have these roles and
        the other labels train. Other lines train if ``[training]`` says so, and are left out
        otherwise. A label in both lists (an error, unless ``compat``) tests.
    """
    name = _meant(file, dataset, log)
    perturbed = conditions[~conditions["is_control"].astype(bool)]
    have: dict[str, list[str]] = {
        str(line): sorted(block["perturbation"].unique())
        for line, block in perturbed.groupby("line", sort=True)
    }
    lines = sorted(conditions["line"].unique())
    zeroshot, fewshot = file.part_of(file.zeroshot, name), file.part_of(file.fewshot, name)
    left_out = file.part_of(file.left_out, name)
    for table, names in (("zeroshot", zeroshot), ("fewshot", fewshot)):
        for line in sorted(set(names) - set(lines)):
            fix = did_you_mean(line, lines)
            log.found("unknown-line", f"no cell line {line!r} in the data", f"[{table}]", fix)
    elsewhere = set(perturbed["perturbation"])
    rows: list[tuple[str, str, str, str]] = []
    unused = []
    for line in lines:
        labels = have.get(line, [])
        if line in zeroshot:
            rows += [(line, p, zeroshot[line], "zeroshot: the whole line") for p in labels]
        elif line in fewshot:
            place = f'[fewshot."{name}.{line}"]'
            roles = _listed(place, line, fewshot[line], labels, elsewhere, controls, log)
            gone = ("left out: stands in val to be kept out of training", LEFT_OUT)
            for p in labels:
                role, why = roles.get(p, ("train", "fewshot: not listed, so it trains"))
                if role == "val" and p in left_out.get(line, ()):
                    why, role = gone
                rows.append((line, p, role, why))
        elif name in file.training:
            rows += [(line, p, "train", "training: the line is named nowhere else") for p in labels]
        else:
            unused.append(line)
    if unused:
        log.found(
            "lines-left-out",
            f"{len(unused)} lines are not used at all: {shown(unused)}",
            "[training]",
            f'write {name} = "train" in [training] to train on the remaining lines',
        )
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def _meant(file: SplitFile, dataset: str, log: Findings) -> str:
    used = file.used
    if len(used) <= 1:
        return used[0] if used else dataset
    wanted = dataset.replace(".", "_")
    if wanted not in used:
        log.found(
            "several-datasets",
            f"the file splits several data sets, {shown(used)}, but not {wanted!r}",
            "",
            "name the data set in the configuration as in the TOML, or write one TOML per data set",
        )
    else:
        others = [name for name in used if name != wanted]
        what = f"the file also splits {shown(others)}, which are not part of this split"
        log.found("other-datasets", what)
    return wanted


def _listed(
    place: str,
    line: str,
    lists: dict[str, list[str]],
    labels: list[str],
    elsewhere: set[str],
    controls: list[str],
    log: Findings,
) -> dict[str, tuple[str, str]]:
    """Return (role, reason) of every listed perturbation of a few-shot line."""
    roles: dict[str, tuple[str, str]] = {}
    known = set(labels)
    both = []
    for role in ("val", "test"):
        for label in dict.fromkeys(lists.get(role, ())):
            if label in controls:
                log.found(
                    "control-listed",
                    f"{role} lists the control {label!r}",
                    place,
                    "remove it: the controls of a line serve training, validation and test",
                )
            elif label not in known:
                note = "; other lines have it" if label in elsewhere else ""
                log.found(
                    "unknown-perturbation",
                    f"line {line!r} has no perturbation {label!r}{note}",
                    f"{place} {role}",
                    nearest(label, labels, Reading(controls=tuple(controls))),
                )
            else:
                both += [label] if label in roles else []
                roles[label] = (role, f"fewshot: listed in {role}")
    if both:
        is_ = "is" if len(both) == 1 else "are"
        log.found(
            "val-test-overlap",
            f"{shown(both)} {is_} both in val and in test",
            place,
            "list each label only once",
        )
    return roles


def nearest(label: str, labels: list[str], reading: Reading = WITH_DOSES) -> str:
    """Return a hint at the intended label: the same drug and dose, or the nearest name."""
    wanted = reading.canonical(label)
    for other in labels:
        if reading.canonical(other) == wanted:
            return f"did you mean {other!r}? It is the same drug and dose"
    return did_you_mean(label, labels)
