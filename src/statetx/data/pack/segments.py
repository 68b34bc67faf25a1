"""Mapped segments of one line from all parts, and the order in which their cells are packed."""

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
"""Seed of the permutation inside (perturbation, batch).

It is a constant, because the store is a function of its data. Sets, controls and subsamples are
drawn with other seeds.
"""


@dataclass
class Segment:
    """Mapped arrays of one segment, and the labels of its file.

    Attributes
    ----------
    file
        Index of the source file in the survey.
    records
        Record of each cell, see `scatter.record_type`, [m].
    indices, values
        Column and value of each stored value, [nnz].
    dense
        Matrices of obsm by key, float32 [m, width].
    counts
        Whether the values are counts.
    perturbations, batches
        Labels behind the codes of the records.
    """

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
    """The n cells of a line, numbered in the order of its segments, and their order in the store.

    Attributes
    ----------
    segments
        Segments of the line.
    first
        Number of the first cell of each segment, and n at the end, [segments + 1].
    perturbation, batch
        Code of each cell, [n].
    perturbations, batches
        Labels behind the codes, sorted.
    nonzeros
        Stored values of each cell, int32 [n].
    start
        Position of the first value of each cell inside its segment, int32 [n].
    order
        Number of the cell at each row of the store, [n].
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
        """Yield the cells of some rows of the store, one segment at a time.

        Each item is (segment, index of the cells in the segment, start of their values, index of
        the cells in `rows`); the three arrays have one entry per cell.
        """
        cells = self.order[rows]
        by_place = np.argsort(cells, kind="stable")
        cells = cells[by_place]
        edges = np.searchsorted(cells, self.first)
        for k in np.flatnonzero(np.diff(edges)):
            members = slice(edges[k], edges[k + 1])
            inside = cells[members] - self.first[k]
            yield self.segments[k], inside, self.start[cells[members]], by_place[members]


def read_index(home: Path) -> dict[str, Any]:
    """Return the index of a part after a check that the part is complete.

    Parameters
    ----------
    home
        Directory of the part.

    Raises
    ------
    ResultsError
        A file of the part is missing, ``index.json`` is damaged, or ``cells.bin`` has another
        length.
    """
    try:
        index = json.loads((home / "index.json").read_text(encoding="utf-8"))
        size = (home / "cells.bin").stat().st_size
        stored_digest = index.pop("digest")
        wrong = None
        if stored_digest != digest(index):
            wrong = "index.json does not match its digest"
        elif size != index["bytes"]:
            wrong = f"cells.bin has {size} of {index['bytes']} bytes"
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        wrong = str(error)
    if wrong is not None:
        raise ResultsError(f"cannot read this part: {wrong}", where=home, fix="pack from the start")
    return index


def check_bytes(home: Path) -> None:
    """Check the cells of a part, which an earlier attempt has left, against their checksum.

    Parameters
    ----------
    home
        Directory of the part.

    Raises
    ------
    ResultsError
        The part is incomplete, or its cells are damaged.
    """
    checksum, wanted = 0, read_index(home)["crc32"]
    with open(home / "cells.bin", "rb") as file:
        while piece := file.read(1 << 24):
            checksum = zlib.crc32(piece, checksum)
    if checksum != wanted:
        raise ResultsError("cells.bin is damaged", where=home, fix="pack from the start")


def read_segments(survey: Survey, parts: Sequence[str | Path], line: str) -> Iterator[Segment]:
    """Yield the mapped segments of a line, part by part.

    Parameters
    ----------
    survey
        Survey of the source files.
    parts
        Directories of the parts, in the order of the survey.
    line
        Name of the cell line.

    Raises
    ------
    ResultsError
        A part is incomplete, or was made from another survey.
    """
    indices, dense = index_type(len(survey.genes)), sorted(survey.widths.items())
    for number, home in enumerate(map(Path, parts)):
        index = read_index(home)
        if index["survey"] != survey.digest:
            raise ResultsError(
                "this part was made from other files or settings",
                where=home,
                fix="delete it and pack again",
            )
        wanted = [entry for entry in index["segments"] if entry["line"] == line]
        if not wanted:
            continue
        mapped = np.memmap(home / "cells.bin", mode="r", dtype=np.uint8)
        names = np.asarray(index["perturbations"]), np.asarray(index["batches"])
        for entry in wanted:
            at = entry["offset"]

            def mapped_array(kind: Any, *shape: int) -> np.ndarray:
                nonlocal at
                kind = np.dtype(kind)
                length = kind.itemsize * int(np.prod(shape))
                array = np.asarray(mapped[at : at + length]).view(kind).reshape(shape)  # noqa: B023
                at += length + -length % ALIGNMENT
                return array

            n, nonzeros = entry["n_cells"], entry["nonzeros"]
            yield Segment(
                number,
                mapped_array(record_type(entry["name_width"]), n),
                mapped_array(indices, nonzeros),
                mapped_array(entry["kind"], nonzeros),
                {key: mapped_array("<f4", n, width) for key, width in dense},
                entry["counts"],
                *names,
            )


def sort_cells(segments: list[Segment], line: str, aliases: list[str]) -> Cells:
    """Return the cells of a line with their order: by (perturbation, batch), and random inside.

    Parameters
    ----------
    segments
        Segments of the line.
    line
        Name of the line, which seeds the permutation.
    aliases
        Control labels. The first is the canonical one, which replaces the others.
    """

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
        members = slice(at, at + len(segment.records))
        codes = np.searchsorted(perturbations, canonical(segment.perturbations))
        perturbation[members] = codes[segment.records["perturbation"]]
        batch[members] = np.searchsorted(batches, segment.batches)[segment.records["batch"]]
        nonzeros[members] = segment.records["nonzeros"]
        start[members] = np.cumsum(segment.records["nonzeros"], dtype=np.int64) - nonzeros[members]
    kind = np.min_scalar_type(-len(perturbations) * len(batches) - 1)
    group = perturbation.astype(kind) * kind.type(len(batches)) + batch
    order = np.argsort(group, kind="stable").astype(np.min_scalar_type(-max(1, n)))
    group = group[order]
    rng = np.random.default_rng([SHUFFLE_SEED, *line.encode()])
    edges = np.flatnonzero(np.r_[True, group[1:] != group[:-1], True])
    for a, b in itertools.pairwise(edges):
        rng.shuffle(order[a:b])
    # The files may have labels that occur in other lines only: they are not categories of this one.
    perturbation, perturbations = used(perturbation, perturbations)
    batch, batches = used(batch, batches)
    return Cells(
        segments, first, perturbation, batch, perturbations, batches, nonzeros, start, order
    )


def per_file(segments: list[Segment]) -> list[Segment]:
    """Return one segment of each source file; the segments of a file share its labels."""
    return list({segment.file: segment for segment in segments}.values())


def used(codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return codes into the labels that occur, and these labels.

    Parameters
    ----------
    codes
        Code of each cell, [n].
    names
        Labels of the codes.
    """
    occurring = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    place = np.zeros(len(names), dtype=codes.dtype)  # [names]
    place[occurring] = np.arange(len(occurring))
    return place[codes], [names[i] for i in occurring]
