"""What source files hold, in words: matrices, scale with its evidence, columns, differences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich.console import RenderableType

from statetx.data.inspection.describe import FileReport, ObsColumn
from statetx.data.inspection.inspect import gene_difference
from statetx.data.inspection.scale import Seen
from statetx.reporting.numbers import size
from statetx.reporting.terminal.terminal import cut, facts, item, number, some, table, title

MANY_ROWS = 60
"""Rows of a table of files, columns or lines; the rest is counted."""
MANY_NUMBERS = 500
"""Different whole numbers that a column of batches may have."""


def file_parts(files: Sequence[FileReport]) -> Iterable[RenderableType]:
    """Return what is printed of the files themselves."""
    first = files[0]
    if len(files) == 1:
        yield title(str(first.path))
        x = f"{first.n_cells:,} cells × {first.n_genes:,} genes, {first.layout} {first.dtype}, "
        rows = [("size", size(first.bytes)), ("X", f"{x}{_zeros(first)} zeros")]
    else:
        yield title(f"{len(files)} files, {sum(found.n_cells for found in files):,} cells")
        shown, more = cut([_line(*one) for one in zip(short_names(files), files, strict=True)],
                          MANY_ROWS, "files")  # fmt: skip
        yield table(("file", "size>", "cells>", "genes>", "X", "zeros>", "looks like"), shown)
        yield more
        rows = []
    rows += [("scale of X", text) for text in _scales(files)]
    rows.append(("obsm", ", ".join(_matrix(*pair) for pair in first.obsm.items()) or "none"))
    rows.append(("uns", ", ".join(_uns(first)) or "nothing"))
    if first.layers:
        rows.append(("layers", f"{some(first.layers, shown=str)} (not read: packing reads X)"))
    yield facts(rows)
    if len(files) > 1:
        yield title(f"Differences from {short_names(files)[0]}")
        told = list(_differences(files))
        yield from (item(text) for text in told[:MANY_ROWS])
        yield f"    … and {len(told) - MANY_ROWS:,} more files" if len(told) > MANY_ROWS else ""
        if not told:
            yield item("none: genes, their order, columns and matrices are the same in all files")
    yield title("Columns of obs")
    lines = [
        (name, column.kind, _n_labels(column), _examples(column))
        for name, column in merged_columns(files).items()
    ]
    shown, more = cut(lines, MANY_ROWS, "columns")
    yield table(("column", "kind", "labels>", "range, or labels with most cells first"), shown)
    yield more


def _line(name: str, found: FileReport) -> tuple[str, ...]:
    x = f"{found.layout} {found.dtype}"
    sizes = (size(found.bytes), f"{found.n_cells:,}", f"{found.n_genes:,}")
    return (name, *sizes, x, _zeros(found), found.looks_like)


def _zeros(found: FileReport) -> str:
    return f"{100 * found.seen.zeros:.1f} %"


def short_names(files: Sequence[FileReport]) -> list[str]:
    """Return the names of the files; with their directories where two have the same."""
    names = [found.path.name for found in files]
    return names if len(set(names)) == len(names) else [str(found.path) for found in files]


def _matrix(name: str, shape: tuple[int, str]) -> str:
    width, kind = shape
    return f"{name} ({width:,} × {kind})" if width else f"{name} ({kind}, no matrix)"


def _uns(found: FileReport) -> Iterable[str]:
    """Name what matters first: genes of an obsm matrix, and the trace of a logarithm."""
    known = {"hvg_names", "log1p"}
    if "hvg_names" in found.uns:
        n = found.uns["hvg_names"] or 0
        fits = [name for name, (width, _) in found.obsm.items() if width == n]
        yield f"hvg_names ({n:,} genes" + (
            f", as many as {' and '.join(fits)} has)" if fits else ")"
        )
    if "log1p" in found.uns:
        yield "log1p (a logarithm was taken of some matrix)"
    rest = [name for name in found.uns if name not in known]
    if rest:
        yield some(rest, shown=str)


def scale_words(seen: Seen, n_cells: int) -> str:
    """Say what values show and what they therefore are.

    Parameters
    ----------
    seen
        What was seen of them.
    n_cells
        Cells of the file.
    """
    where = f"{seen.cells:,} sampled cells"
    if seen.cells == 0:
        where = f"{seen.values:,} sampled values"
    elif seen.cells >= n_cells:
        where = f"all {n_cells:,} cells"
    if not seen.values:
        return f"nothing but zeros in {where}"
    if seen.low < 0:
        return (
            f"values from {number(seen.low)} to {number(seen.largest)} in {where}: scaled or "
            "centred, not expression"
        )
    kind = "whole numbers" if seen.integral else "decimals"
    text = f"{kind} up to {number(seen.largest)} in {where}"
    same, sums = seen.target_sum, seen.sums
    if seen.integral:
        per_cell = f" ({number(sums[0])} to {number(sums[2])} per cell)" if sums else ""
        return f"{text}: counts{per_cell}"
    if seen.scale == "counts":
        if same is not None:
            return f"{text}, summing to {number(same)} in every sampled cell: counts per {number(same)}, no logarithm"
        return f"{text}, beyond any logarithm: counts that were corrected or averaged"
    behind = "" if seen.largest_count is None else "; counts can be recovered from it"
    if same is not None:
        return (
            f"{text}, expm1 sums to {number(same)} in every sampled cell: log1p with target_sum "
            f"{number(same)}{behind}"
        )
    if sums is None:
        return f"{text}: log1p (its target_sum does not show in a CSC matrix without reading all)"
    return (
        f"{text}, expm1 sums to between {number(sums[0])} and {number(sums[2])}: log1p, but not of "
        f"one target_sum over these genes{behind}"
    )


def _scales(files: Sequence[FileReport]) -> Iterable[str]:
    """One sentence for all files, or one for each kind that occurs, with its files."""
    kinds: dict[tuple[object, ...], list[FileReport]] = {}
    for found in files:
        seen = found.seen
        same = None if seen.integral or seen.target_sum is None else f"{seen.target_sum:.4g}"
        kinds.setdefault((seen.scale, seen.integral, seen.low < 0, same), []).append(found)
    for group in kinds.values():
        all_seen = [found.seen for found in group]
        sums = [seen.sums for seen in all_seen if seen.sums]
        counts = [seen.largest_count for seen in all_seen]
        merged = replace(
            all_seen[0],
            cells=sum(seen.cells for seen in all_seen),
            values=sum(seen.values for seen in all_seen),
            low=min(seen.low for seen in all_seen),
            largest=max(seen.largest for seen in all_seen),
            sums=(min(s[0] for s in sums), sums[0][1], max(s[2] for s in sums)) if sums else None,
            largest_count=None if None in counts else max(n for n in counts if n is not None),
        )
        text = scale_words(merged, sum(found.n_cells for found in group))
        yield text if len(kinds) == 1 else f"{some(short_names(group), shown=str)}: {text}"


def merged_columns(files: Sequence[FileReport]) -> dict[str, ObsColumn]:
    """Return the columns of obs of all files, each with the labels that it has in any of them."""
    out: dict[str, ObsColumn] = {}
    for found in files:
        for name, column in found.obs.items():
            if name not in out:
                out[name] = column
                continue
            known = out[name]
            names = tuple(dict.fromkeys([*known.names, *column.names]))
            complete = known.complete and column.complete
            out[name] = replace(
                known,
                n_labels=len(names)
                if complete
                else max(known.n_labels, column.n_labels, len(names)),
                complete=complete,
                names=names,
                low=min(known.low, column.low),
                high=max(known.high, column.high),
            )
    return out


def _n_labels(column: ObsColumn) -> str:
    numbers = column.kind not in ("labels", "text")
    if not column.n_labels or (numbers and column.n_labels > MANY_NUMBERS):
        return ""  # of a measurement, the number of values says nothing
    return f"{column.n_labels:,}" if column.complete else f"≥ {column.n_labels:,}"


def _examples(column: ObsColumn) -> str:
    if column.kind not in ("labels", "text") and column.low == column.low:
        return f"{number(column.low)} to {number(column.high)}"
    return some(column.names, total=column.n_labels)


def _differences(files: Sequence[FileReport]) -> Iterator[str]:
    """Say how each file differs from the first."""
    first = files[0]
    for name, other in list(zip(short_names(files), files, strict=True))[1:]:
        told = list(_against(first, other))
        if told:
            yield f"{name}: {'; '.join(told)}"


def _against(first: FileReport, other: FileReport) -> Iterator[str]:
    if first.genes and other.genes:
        missing, extra = gene_difference(first, other)
        if missing:
            yield f"{len(missing):,} genes missing ({some(missing)})"
        if extra:
            yield f"{len(extra):,} genes more ({some(extra)})"
        there = set(other.genes)
        common = [gene for gene in first.genes if gene in there]
        here = set(first.genes)
        order = [gene for gene in other.genes if gene in here]
        if common != order:
            at = next(i for i, (a, b) in enumerate(zip(common, order, strict=True)) if a != b)
            yield f"other order of genes, first {order[at]!r} where the first file has {common[at]!r}"
    if first.looks_like != other.looks_like:
        yield f"X looks like {other.looks_like}, not {first.looks_like}"
    for what, mine, its in (("obs", first.obs, other.obs), ("obsm", first.obsm, other.obsm)):
        gone, new = [n for n in mine if n not in its], [n for n in its if n not in mine]
        if gone:
            yield f"{what} does not have {some(gone)}"
        if new:
            yield f"{what} also has {some(new)}"
    for key in first.obsm:
        if key in other.obsm and first.obsm[key] != other.obsm[key]:
            yield f"obsm {_matrix(key, other.obsm[key])}, not {_matrix(key, first.obsm[key])}"
