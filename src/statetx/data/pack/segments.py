"""The segments of one line in all parts, mapped, and the order in which their cells are packed."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from statetx.core.digests import digest
from statetx.core.errors import ResultsError
from statetx.data.pack.scatter import index_type, record_type
from statetx.data.pack.survey import Survey
from statetx.data.store.layout import ALIGNMENT

SHUFFLE_SEED = 0
"""Of the permutation inside (perturbation, batch). A constant: the store is a function of its data,
and the draws that matter (sets, controls, subsamples) have seeds of their own."""


@dataclass
class Segment:
    """Mapped arrays of one segment, and the codes of its file."""

    file: int
    records: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    dense: dict[str, np.ndarray]
    counts: bool
    perturbations: np.ndarray
    batches: np.ndarray


@dataclass
class Cells:
    """All cells of a line: where they are, and in which order they go into the store.

    Attributes
    ----------
    segments, first
        Segments, and the number of the first cell of each [segments + 1].
    perturbation, batch
        Code of every cell, in the order of the segments.
    perturbations, batches
        Labels behind the codes, sorted.
    nonzeros
        Of every cell, int32.
    start
        Where the values of a cell start inside its segment, int32.
    order
        Cell number at every row of the store.
    """

    segments: list[Segment]
    first: np.ndarray
    perturbation: np.ndarray
    batch: np.ndarray
    perturbations: list[str]
    batches: list[str]
    nonzeros: np.ndarray
    start: np.ndarray
    order: np.ndarray

    def taken(self, rows: slice) -> Iterator[tuple[Segment, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (segment, cells inside it, where their values start, places inside `rows`)."""
        cells = self.order[rows]
        by_place = np.argsort(cells, kind="stable")
        cells = cells[by_place]
        edges = np.searchsorted(cells, self.first)
        for k in np.flatnonzero(np.diff(edges)):
            here = slice(edges[k], edges[k + 1])
            inside = cells[here] - self.first[k]
            yield self.segments[k], inside, self.start[cells[here]], by_place[here]


def read_index(home: Path) -> dict[str, Any]:
    """Return what a part holds, once it proves to be whole.

    Raises
    ------
    ResultsError
        A file of it is missing, damaged or of another length.
    """
    try:
        index = json.loads((home / "index.json").read_text(encoding="utf-8"))
        size = (home / "cells.bin").stat().st_size
        told = index.pop("digest")
        wrong = None
        if told != digest(index):
            wrong = "index.json is not what was written"
        elif size != index["bytes"]:
            wrong = f"cells.bin has {size} of {index['bytes']} bytes"
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        wrong = str(error)
    if wrong is not None:
        raise ResultsError(f"cannot read this part: {wrong}", where=home, fix="pack from the start")
    return index


def check_bytes(home: Path) -> None:
    """Compare the cells of a part with their checksum: for one that an earlier attempt left.

    Raises
    ------
    ResultsError
        They differ.
    """
    found, wanted = 0, read_index(home)["crc32"]
    with open(home / "cells.bin", "rb") as file:
        while piece := file.read(1 << 24):
            found = zlib.crc32(piece, found)
    if found != wanted:
        raise ResultsError("cells.bin is damaged", where=home, fix="pack from the start")


def read_segments(survey: Survey, parts: Sequence[str | Path], line: str) -> Iterator[Segment]:
    indices, dense = index_type(len(survey.genes)), sorted(survey.widths.items())
    for number, home in enumerate(map(Path, parts)):
        index = read_index(home)
        if index["survey"] != survey.digest:
            raise ResultsError(
                "this part was made from other files or settings",
                where=home,
                fix="delete it and pack again",
            )
        wanted = [one for one in index["segments"] if one["line"] == line]
        if not wanted:
            continue
        mapped = np.memmap(home / "cells.bin", mode="r", dtype=np.uint8)
        names = np.asarray(index["perturbations"]), np.asarray(index["batches"])
        for one in wanted:
            at = one["offset"]

            def mapped_array(kind: Any, *shape: int) -> np.ndarray:
                nonlocal at
                kind = np.dtype(kind)
                length = kind.itemsize * int(np.prod(shape))
                found = np.asarray(mapped[at : at + length]).view(kind).reshape(shape)  # noqa: B023
                at += length + -length % ALIGNMENT
                return found

            n, nonzeros = one["n_cells"], one["nonzeros"]
            yield Segment(
                number,
                mapped_array(record_type(one["name_width"]), n),
                mapped_array(indices, nonzeros),
                mapped_array(one["kind"], nonzeros),
                {key: mapped_array("<f4", n, width) for key, width in dense},
                one["counts"],
                *names,
            )


def sort_cells(segments: list[Segment], line: str, aliases: list[str]) -> Cells:
    """Find the order of the rows: by (perturbation, batch), and at random inside."""

    def canonical(names: np.ndarray) -> np.ndarray:
        return np.where(np.isin(names, aliases[1:]), aliases[0], names)

    perturbations = sorted({str(x) for s in per_file(segments) for x in canonical(s.perturbations)})
    batches = sorted({str(x) for s in per_file(segments) for x in s.batches})
    first = np.cumsum([0, *(len(segment.records) for segment in segments)])
    n = int(first[-1])
    perturbation = np.empty(n, dtype=np.min_scalar_type(-len(perturbations)))
    batch = np.empty(n, dtype=np.min_scalar_type(-len(batches)))
    nonzeros, start = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
    for segment, at in zip(segments, first[:-1], strict=True):
        here = slice(at, at + len(segment.records))
        codes = np.searchsorted(perturbations, canonical(segment.perturbations))
        perturbation[here] = codes[segment.records["perturbation"]]
        batch[here] = np.searchsorted(batches, segment.batches)[segment.records["batch"]]
        nonzeros[here] = segment.records["nonzeros"]
        start[here] = np.cumsum(segment.records["nonzeros"], dtype=np.int64) - nonzeros[here]
    kind = np.min_scalar_type(-len(perturbations) * len(batches) - 1)
    group = perturbation.astype(kind) * kind.type(len(batches)) + batch
    order = np.argsort(group, kind="stable").astype(np.min_scalar_type(-max(1, n)))
    group = group[order]
    rng = np.random.default_rng([SHUFFLE_SEED, *line.encode()])
    edges = np.flatnonzero(np.r_[True, group[1:] != group[:-1], True])
    for a, b in itertools.pairwise(edges):
        rng.shuffle(order[a:b])
    # Labels of other lines in the same files are no categories of this one.
    perturbation, perturbations = used(perturbation, perturbations)
    batch, batches = used(batch, batches)
    return Cells(
        segments, first, perturbation, batch, perturbations, batches, nonzeros, start, order
    )


def per_file(segments: list[Segment]) -> list[Segment]:
    """Return one segment of each source file: all of a file share its labels."""
    return list({segment.file: segment for segment in segments}.values())


def used(codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return codes into the labels that occur, and these labels."""
    found = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    place = np.zeros(len(names), dtype=codes.dtype)
    place[found] = np.arange(len(found))
    return place[codes], [names[i] for i in found]
