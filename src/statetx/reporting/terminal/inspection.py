"""What `statetx inspect` prints, for a reader who knows the cells but not the file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

from rich.console import RenderableType
from rich.text import Text

from statetx.config import Dataset
from statetx.core.errors import shortened
from statetx.data.inspection.design import (
    Candidate,
    Columns,
    Design,
    candidates,
    looks_like_control,
)
from statetx.data.inspection.inspect import Needs, Report
from statetx.reporting.numbers import count, size
from statetx.reporting.terminal.inspected_files import MANY_ROWS, file_parts, merged_columns
from statetx.reporting.terminal.terminal import command, cut, facts, item, some, table, title, write
from statetx.shared.label_counts import IF_IDS, counted
from statetx.shared.label_kinds import read_as
from statetx.shared.labels import controls

ROWS = 10
"""Rows of a table of examples; the rest is counted."""
_LIKE_MISSING = frozenset({"na", "n/a", "#n/a", "<na>", "null", "none", "nan", "-", "?", "unknown"})


def print_inspection(report: Report, cell_set_len: int = 256, file: TextIO | None = None) -> None:
    """Print what the files hold, what their labels say, what packing takes, and every problem.

    Parameters
    ----------
    report
        From `statetx.data.inspection.inspect.inspect`.
    cell_set_len
        Cells of a set: a batch with fewer controls is worth a line.
    file
        Where to; standard output by default.
    """
    parts: list[RenderableType] = []
    if report.files:
        parts += file_parts(report.files)
        if report.design is not None:
            parts += _design(report, report.design, cell_set_len)
        if report.needs is not None:
            parts += _needs(report.needs, isinstance(report.declared, Dataset))
        remarks = list(_remarks(report))
        if remarks:
            parts += [title("Worth knowing"), *(item(text) for text in remarks)]
        parts += _advice(report)
    parts += _problems(report)
    write([part for part in parts if part != ""], file or sys.stdout)


# ---------------------------------------------------------------------------------------------
# labels


def _design(report: Report, design: Design, cell_set_len: int) -> Iterator[RenderableType]:
    declared, lines, conditions = report.declared, design.lines(), design.conditions()
    with_controls, batches = bool(declared.control_pert), declared.batch_col is not None
    by_line, by_label = declared.cell_type_key is not None, declared.pert_col is not None
    yield title("Cells by label")
    told = [count(int(lines["cells"].sum()), "cell")]
    if by_line:
        told.append(count(len(lines), "cell line"))
    if by_label:
        what = "perturbation" if with_controls else "label"
        told.append(count(conditions["perturbation"].nunique(), what))
    if batches:
        told.append(count(design.table["batch"].nunique(), "batch", "batches"))
    if with_controls:
        told.append(count(int(lines["controls"].sum()), "control cell"))
    yield Text("  " + ", ".join(told))
    if by_label and with_controls:
        yield from _read_as(declared, conditions["perturbation"].unique())
    wanted = {
        "cells": True,
        "perturbations": by_label,
        "controls": with_controls,
        "batches": batches,
    }
    chosen = [name for name, here in wanted.items() if here]
    if by_line:
        if len(lines) > MANY_ROWS and with_controls:
            lines = lines.sort_values("controls", kind="stable")
        rows = [
            (str(name), *(f"{int(n):,}" for n in values))
            for name, values in zip(lines.index, lines[chosen].to_numpy(), strict=True)
        ]
        shown, more = cut(
            rows, MANY_ROWS, "lines, none with fewer controls" if with_controls else "lines"
        )
        heads = [name if by_label or name != "perturbations" else "labels" for name in chosen]
        yield table(("cell line", *(f"{name}>" for name in heads)), shown)
        yield more
    if by_label and with_controls and by_line and batches:
        yield from _matching(report, design, cell_set_len)
    if by_label and len(conditions):
        sizes = conditions["cells"]
        few, least, most = int((sizes < cell_set_len).sum()), sizes.min(), sizes.max()
        span = f"{least:,} to {most:,} cells, median {sizes.median():,.0f}"
        yield title("Smallest conditions")
        yield Text(
            f"  {count(len(conditions), 'condition')} of {span if most > least else f'{most:,} cells'}; "
            f"{few:,} of fewer than a set ({cell_set_len})"
        )
        rows = [
            (*((_label(line),) if by_line else ()), _label(label), f"{n:,}")
            for line, label, n in conditions[:ROWS].itertuples(index=False)
        ]
        yield table((*(("cell line",) if by_line else ()), "perturbation", "cells>"), rows)
        if len(conditions) > ROWS:
            yield f"    … and {len(conditions) - ROWS:,} more"


def _read_as(declared: Dataset | Columns, labels: Iterable[str]) -> Iterator[RenderableType]:
    """Say how many drugs and doses the labels are, and what made them so."""
    known = controls(declared.control_pert)
    found = counted(read_as(declared.labels, labels, known), labels, declared.labels)
    yield Text("  " + found.text)
    if found.collapse:
        yield item(f"{found.collapse}: {IF_IDS}")


def _matching(report: Report, design: Design, cell_set_len: int) -> Iterator[RenderableType]:
    """Say where treated cells find controls of their own batch, and where they do not."""
    found = design.matching()
    n = found["controls"]
    without, few = int((n == 0).sum()), int(((n > 0) & (n < cell_set_len)).sum())
    yield title("Controls in the batch of the treated cells")
    yield Text(
        f"  {count(len(found), '(line, batch) pair')} with treated cells: {n.min():,} controls at "
        f"least, {n.median():,.0f} in the median"
    )
    short = found[n < cell_set_len]
    if short.empty:
        yield Text(f"  all have a set's worth of controls ({cell_set_len}) or more")
        return
    declared = report.declared
    if without:
        other = not isinstance(declared, Dataset) or False in declared.match_by_batch()
        what = (
            "their cells get controls of the line's other batches, if it has any"
            if other
            else "control_match leaves their cells without a control"
        )
        yield item(f"{without:,} have no control: {what}")
    if without == len(found):
        yield item(
            "no batch has both treated and control cells: effects of batch and treatment cannot be "
            "told apart"
        )
    if few:
        yield item(f"{few:,} have fewer than a set ({cell_set_len}): controls repeat within a set")
    rows = [
        (_label(line), _label(batch), f"{treated:,}", f"{controls:,}")
        for line, batch, treated, controls in short.itertuples(index=False)
    ]
    shown, more = cut(rows, ROWS, "with fewer than a set")
    yield table(("cell line", "batch", "treated cells>", "controls>"), shown)
    yield more


def _label(name: str) -> str:
    """Quote a label whose blanks would not show."""
    return name if name == name.strip() else repr(name)


# ---------------------------------------------------------------------------------------------
# estimate


def _needs(needs: Needs, declared: bool) -> Iterator[RenderableType]:
    pack, training = needs.pack, needs.training
    total = pack.parts + pack.store
    each = pack.store / max(1, needs.cells)
    beside = "" if declared else "; without obsm, which is packed only where it is declared"
    yield title("Estimate")
    yield facts(
        [
            ("disk to pack", f"{size(total)}: {size(pack.parts)} of temporary parts and "
                             f"{size(pack.store)} of store ({each:,.0f} bytes per cell){beside}"),
            ("free disk", f"{size(needs.free)} at {needs.place.absolute()}"),
            ("memory to pack", size(needs.memory)),
            ("memory to train", f"{size(training.mapped)} mapped from disk, as much of it in memory "
                                f"as there is room; {size(training.ring)} for batches of 64 sets × "
                                "256 cells that are made, wait or are in use"),
            ("GPU", f"cells fit into the memory of a GPU of 80 GB, beside the model: "
                    f"{'yes' if training.on_gpu else 'no'}"),
        ]
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------
# remarks and advice


def _remarks(report: Report) -> Iterator[str]:
    declared, first = report.declared, report.files[0]
    for found in report.files:
        for element, reason in list(found.unread.items())[:ROWS]:
            yield shortened(
                f"{found.path}: {element} was not read, which packing does not need: {reason}"
            )
        if len(found.unread) > ROWS:
            yield f"{found.path}: {len(found.unread) - ROWS} more elements were not read"
    empty = sum(found.seen.empty for found in report.files)
    if empty:
        yield f"{count(empty, 'sampled cell')} without any count"
    if first.looks_like == "log1p" and first.layers:
        yield (
            f"X looks like log1p; counts may lie in layers ({some(first.layers, shown=str)}), but "
            "packing reads X"
        )
    if report.design is None:
        return
    known = sorted(set(report.design.table["perturbation"]))
    if declared.pert_col is not None:
        more = [n for n in known if looks_like_control(n) and n not in set(_controls(report))]
        if declared.control_pert and more:
            yield (
                f"obs[{declared.pert_col!r}] has {some(more)}, which reads like a control and counts "
                "as a perturbation: list it in control_pert if it is one"
            )
    for name, column in (("perturbation", declared.pert_col), ("line", declared.cell_type_key),
                         ("batch", declared.batch_col)):  # fmt: skip
        if column is None:
            continue
        cells = report.design.table.groupby(name)["cells"].sum()
        for label in [label for label in cells.index if label.casefold() in _LIKE_MISSING][:ROWS]:
            yield (
                f"obs[{column!r}] has {count(int(cells[label]), 'cell')} labelled {label!r}, which "
                "reads like a missing value and counts as a label: drop these cells if it is none"
            )
        for group in _alike(sorted(set(report.design.table[name])))[:ROWS]:
            yield f"obs[{column!r}] has {some(group)}: different labels, or one with two spellings?"


def _controls(report: Report) -> list[str]:
    return controls(report.declared.control_pert)


def _alike(names: list[str]) -> list[list[str]]:
    """Group labels that differ only in blanks, case and punctuation."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(c for c in name.casefold() if c not in " _-"), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _advice(report: Report) -> Iterator[RenderableType]:
    """Where something was not said: name columns that may be meant, and the command to try."""
    declared = report.declared
    names = ("pert_col", "cell_type_key", "batch_col", "control_pert", "scale")
    missing = [name for name in names if not getattr(declared, name)]
    if isinstance(declared, Dataset) or not missing:
        return
    yield title(f"Not said, so not counted or checked: {', '.join(map(_option, missing))}")
    columns = merged_columns(report.files)
    labels = {name: column.names for name, column in columns.items() if column.names}
    found = [one for one in candidates(labels) if one.option in missing]
    if declared.pert_col is not None and not declared.control_pert:
        found += [c for c in candidates({declared.pert_col: labels.get(declared.pert_col, ())})
                  if c.controls]  # fmt: skip
    taken = {declared.cell_type_key, declared.batch_col}
    found = [one for one in found if one.column not in taken]
    yield from (item(_candidate(one)) for one in found[:ROWS])
    best: dict[str, Candidate] = {}
    for one in found:
        best.setdefault(one.option, one)
    parts = ["statetx inspect", *(_quoted(str(one.path)) for one in report.files[:3])]
    parts += ["…"] if len(report.files) > 3 else []
    for name in names[:3]:
        column = getattr(declared, name) or (best[name].column if name in best else None)
        parts += [f"{_option(name)} {_quoted(column)}"] if column else []
    controls = list(declared.control_pert)
    controls = controls or list(best["pert_col"].controls[:1] if "pert_col" in best else ())
    parts += [f"--control-pert {_quoted(label)}" for label in controls]
    parts.append(f"--scale {declared.scale or report.files[0].looks_like}")
    yield Text("  If that is what they are:")
    yield command(parts)


def _quoted(text: str) -> str:
    """Quote for a shell; double quotes around single ones, which labels such as tuples have."""
    plain = "'" in text and not set('"$`!\\') & set(text)
    return f'"{text}"' if plain else shlex.quote(text)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _candidate(one: Candidate) -> str:
    text = f"obs[{one.column!r}] has {count(one.n_labels, 'label')}"
    option = f"{_option(one.option)} {_quoted(one.column)}"
    if not one.controls:
        return f"{text}: {option}?"
    verb = "looks like a control" if len(one.controls) == 1 else "look like controls"
    like = f"{some(one.controls, width=40)} {verb}"
    return f"{text}, {like}: {option} --control-pert {_quoted(one.controls[0])}?"


# ---------------------------------------------------------------------------------------------
# problems


def _looked(report: Report) -> str:
    """Say which values were read."""
    if not report.files:
        return "Nothing was read."
    small = all(found.n_cells <= found.seen.cells for found in report.files)
    matrices = report.problems or any(found.unread for found in report.files)
    if not (report.full or small):
        return "Values were read from a sample of cells; --full reads every one."
    return "Every value of what could be read was read." if matrices else "Every value was read."


def _problems(report: Report) -> Iterator[RenderableType]:
    looked = _looked(report)
    if not report.problems:
        yield title("No problem found")
        yield Text(f"  {looked}")
        return
    yield title(f"{count(len(report.problems), 'problem')} to fix before packing")
    for problem in report.problems:
        where = [("where", problem.where)] if problem.where else []
        fix = [("fix", shortened(problem.fix))] if problem.fix else []
        yield item(shortened(problem.what), style="bold red")
        yield facts([*where, *fix], indent=4)
    yield Text(f"  {looked}")
