"""First step of packing: read and check every header, and decide the content of the store.

Only samples of cells are read, so that errors are reported before hours of work.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from statetx.config import Dataset
from statetx.core.digests import digest
from statetx.core.errors import DataError, ResultsError
from statetx.core.fingerprint import code_fingerprint
from statetx.core.text_files import write_json
from statetx.data.h5ad.header import Header, header
from statetx.data.h5ad.identity import identity
from statetx.data.inspection.checks import check_scales, check_together, refuse_repeat
from statetx.data.pack.content import stamp
from statetx.data.store.layout import FORMAT

log = logging.getLogger("statetx.pack")

CODE = ("statetx.data.pack.scatter", "statetx.data.pack.gather")
"""Modules that decide the bytes of a store.

Parts that an interrupted packing by other code has left are not used.
"""


@dataclass(frozen=True)
class Source:
    """One source file.

    Attributes
    ----------
    path
        Path of the file.
    stamp
        Size, modification time and inode, see `statetx.data.pack.content.stamp`.
    identity
        Size and digest, see `statetx.data.h5ad.identity`.
    n_cells
        Number of cells.
    lines
        Cell lines in the file.
    """

    path: str
    stamp: list[int]
    identity: str
    n_cells: int
    lines: list[str]


@dataclass(frozen=True)
class Survey:
    """Content of the source files of a data set, and of the store that is made from them.

    Attributes
    ----------
    dataset
        Name of the data set.
    sources
        Source files, in the order in which they are listed.
    genes
        Genes of the store, in the order of the first file.
    expression_genes
        Genes of ``expression_key``, or None.
    widths
        Columns of each packed obsm matrix.
    cells
        Number of cells per line.
    settings
        Settings of the data set that packing reads.
    """

    dataset: str
    sources: list[Source]
    genes: list[str]
    expression_genes: list[str] | None
    widths: dict[str, int]
    cells: dict[str, int]
    settings: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """Digest of all that parts depend on, including code but not paths."""
        files = [(source.identity, source.stamp) for source in self.sources]
        return digest([FORMAT, files, self.genes, self.settings, code_fingerprint(CODE)])

    def write(self, path: str | Path) -> None:
        """Write the survey as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> Survey:
        """Read a survey that `write` wrote.

        Raises
        ------
        ResultsError
            The file is missing or is not a survey.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**{**raw, "sources": [Source(**source) for source in raw["sources"]]})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ResultsError(
                f"cannot read this survey of source files: {error}",
                where=path,
                fix="pack from the start",
            ) from error


def watched(settings: Dataset) -> list[str | None]:
    """Return the columns of obs that enter the identity of a source file as a whole."""
    return [
        settings.pert_col,
        settings.cell_type_key,
        settings.batch_col,
        settings.total_counts_col,
    ]


def packed_settings(settings: Dataset) -> dict[str, Any]:
    """Return the settings that decide the content of a store: no paths, no control matching."""
    unread = ("files", "simulate", "control_match")
    return {key: value for key, value in settings.changed().items() if key not in unread}


def declared(settings: dict[str, Any]) -> Dataset:
    """Return the data set that `packed_settings` was made from, without its files."""
    return Dataset.model_validate({"files": ["*"], **settings})


def survey(files: Sequence[str | Path], settings: Dataset, name: str) -> Survey:
    """Check source files and decide the content of their store.

    Parameters
    ----------
    files
        h5ad files.
    settings
        Settings of the data set.
    name
        Name of the data set.

    Raises
    ------
    DataError
        The files contradict the settings or each other.
    """
    paths = [Path(path) for path in files]
    _no_repeats(paths)
    headers = [header(path, settings).without_cells() for path in paths]
    check_together(headers, settings)
    for path in paths:
        check_scales(path, settings)
    first, cells = headers[0], dict[str, int]()
    for found in headers:
        for line, n in found.cells.items():
            cells[line] = cells.get(line, 0) + n
    return Survey(
        dataset=name,
        sources=[
            Source(
                str(found.path),
                stamp(found.path),
                identity(found.path, watched(settings)),
                found.n_cells,
                found.line.names,
            )
            for found in headers
        ],
        genes=_common_genes(headers),
        expression_genes=first.hvg,
        widths=first.widths,
        cells=dict(sorted(cells.items())),
        settings=packed_settings(settings),
    )


def _no_repeats(paths: list[Path]) -> None:
    """Check that there are files, each listed once."""
    if not paths:
        raise DataError("no files to pack", fix="set `files` of the data set to paths or globs")
    seen: dict[Path, Path] = {}
    for path in paths:
        refuse_repeat(path, seen)


def _common_genes(headers: Sequence[Header]) -> list[str]:
    """Return the genes that all files have.

    `check_together` has refused different genes unless the settings allow them.
    """
    common = set(headers[0].genes).intersection(*(found.genes for found in headers[1:]))
    genes = [name for name in headers[0].genes if name in common]
    if len(genes) < max(len(found.genes) for found in headers):
        log.info("genes: %d are in all files and are kept", len(genes))
    for found in headers[1:]:
        if [name for name in found.genes if name in common] != genes:
            log.info("genes of %s have another order: they are aligned by name", found.path)
    return genes
