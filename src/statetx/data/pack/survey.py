"""First step of packing: read every header, check what must agree, decide what the store will hold.

Nothing of a cell is read but samples, so that what is wrong is said before hours of work.
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
"""What decides the bytes of a store: parts of an interrupted packing by other code are not used."""


@dataclass(frozen=True)
class Source:
    """One source file.

    Attributes
    ----------
    path, stamp, identity
        Which file; `stamp` is that of `statetx.data.pack.content`, `identity` that of
        `statetx.data.h5ad.identity`.
    n_cells
        Its cells.
    lines
        Its cell lines.
    """

    path: str
    stamp: list[int]
    identity: str
    n_cells: int
    lines: list[str]


@dataclass(frozen=True)
class Survey:
    """What the files hold together, and what is made of them.

    Attributes
    ----------
    dataset
        Name of the data set.
    sources
        The files, in the order of the list.
    genes
        Genes of the store, in the order of the first file.
    expression_genes
        Genes of ``expression_key``, or None.
    widths
        Columns of each packed obsm matrix.
    cells
        Cells per line.
    settings
        The settings that packing reads.
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
        """Digest of all that parts depend on, code included; paths do not count."""
        files = [(source.identity, source.stamp) for source in self.sources]
        return digest([FORMAT, files, self.genes, self.settings, code_fingerprint(CODE)])

    def write(self, path: str | Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> Survey:
        """Read what `write` wrote.

        Raises
        ------
        ResultsError
            No such file, or another one.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**{**raw, "sources": [Source(**source) for source in raw["sources"]]})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ResultsError(
                f"this is no survey of source files: {error}",
                where=path,
                fix="run packing from its start",
            ) from error


def watched(settings: Dataset) -> list[str | None]:
    """Columns of obs whose whole content counts in the identity of a source file."""
    return [
        settings.pert_col,
        settings.cell_type_key,
        settings.batch_col,
        settings.total_counts_col,
    ]


def packed_settings(settings: Dataset) -> dict[str, Any]:
    """The settings that decide what a store holds: not where files are, not how controls match."""
    unread = ("files", "simulate", "control_match")
    return {key: value for key, value in settings.changed().items() if key not in unread}


def declared(settings: dict[str, Any]) -> Dataset:
    """Return the section behind `packed_settings`."""
    return Dataset.model_validate({"files": ["*"], **settings})


def survey(files: Sequence[str | Path], settings: Dataset, name: str) -> Survey:
    """Check source files and decide what their store will hold.

    Parameters
    ----------
    files
        h5ad files.
    settings
        What their columns mean.
    name
        Name of the data set.

    Raises
    ------
    DataError
        The files are not what `settings` declares.
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
    if not paths:
        raise DataError("no files to pack", fix="give `files` of the data set paths or globs")
    seen: dict[Path, Path] = {}
    for path in paths:
        refuse_repeat(path, seen)


def _common_genes(headers: Sequence[Header]) -> list[str]:
    """Genes that all files have (`check_together` refused differences that are not wanted)."""
    common = set(headers[0].genes).intersection(*(found.genes for found in headers[1:]))
    genes = [name for name in headers[0].genes if name in common]
    if len(genes) < max(len(found.genes) for found in headers):
        log.info("genes: %d are in all files and are kept", len(genes))
    for found in headers[1:]:
        if [name for name in found.genes if name in common] != genes:
            log.info("genes of %s are ordered differently: aligned by name", found.path)
    return genes
