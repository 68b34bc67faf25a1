"""Digest of the content of a source file: a copy repacks nothing, a changed count does.

The digest covers all that packing reads: genes, the declared columns of obs, cell names, X and the
declared matrices. It does not depend on compression, layout of matrices, types of numbers, other
columns or the file name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from statetx.core.digests import digest
from statetx.data.h5ad.header import Column, Header, barcodes, header, opened
from statetx.data.h5ad.matrix import Matrix

if TYPE_CHECKING:
    from scipy import sparse

    from statetx.config import Dataset

CHUNK_ROWS = 4096
"""Most rows that `content_of` reads at once."""


class Content:
    """Digest of a source file, computed from its cells in order, in chunks of any size.

    Parameters
    ----------
    found
        Header of the file.
    """

    def __init__(self, found: Header) -> None:
        self._hashes = {name: xxhash.xxh3_128() for name in ("lengths", "genes", "values", "names")}
        self._hashes |= {f"obsm/{key}": xxhash.xxh3_128() for key in found.widths}
        self._fixed: list[Any] = [found.genes, found.hvg, found.n_cells, found.widths]
        for column in (found.perturbation, found.line, found.batch):
            self._fixed.append(_of_column(column))
        if found.totals is not None:
            self._fixed.append(xxhash.xxh3_128(np.ascontiguousarray(found.totals).data).hexdigest())

    def add(
        self, x: sparse.csr_matrix, dense: Mapping[str, np.ndarray], names: Sequence[bytes]
    ) -> None:
        """Add the next cells of the file.

        Parameters
        ----------
        x
            Rows of X, CSR [n, genes].
        dense
            Rows of each declared obsm matrix, [n, width].
        names
            Cell names, UTF-8.
        """
        update = self._hashes
        update["lengths"].update(np.diff(x.indptr).astype(np.int64).data)
        update["genes"].update(np.ascontiguousarray(x.indices, dtype=np.int32).data)
        update["values"].update(np.ascontiguousarray(x.data, dtype=np.float64).data)
        update["names"].update(b"".join(name + b"\0" for name in names))
        for key, rows in dense.items():
            update[f"obsm/{key}"].update(np.ascontiguousarray(rows, dtype=np.float64).data)

    def hexdigest(self) -> str:
        """Return the digest of the header and of all cells added so far."""
        return digest([self._fixed, {k: h.hexdigest() for k, h in self._hashes.items()}], 32)


def _of_column(column: Column) -> list[object]:
    """Return the labels of a column and a digest of its codes."""
    codes = np.ascontiguousarray(column.codes, dtype=np.int32)
    return [column.names, xxhash.xxh3_128(codes.data).hexdigest()]


def stamp(path: Path) -> list[int]:
    """Return size, modification time in ns and inode; equal stamps are taken as equal content."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def content_of(path: Path, settings: Dataset) -> str:
    """Read a whole source file and return its digest, which equals that of `scatter`.

    Parameters
    ----------
    path
        The h5ad.
    settings
        Settings of the data set.

    Raises
    ------
    DataError
        The file contradicts the settings, or cannot be read.
    """
    from tqdm import tqdm

    found = header(path, settings)
    content = Content(found)
    with opened(path) as file:
        x = Matrix(file, "X", path)
        obsm = {key: Matrix(file, f"obsm/{key}", path) for key in sorted(found.widths)}
        most = min([CHUNK_ROWS, *(matrix.dense_chunk_rows for matrix in obsm.values())])
        bar = tqdm(total=found.n_cells, unit="cell", desc=f"compare {path.stem}", disable=None)
        for start, stop in x.chunks(most):
            names = [text.encode() for text in barcodes(file, path, slice(start, stop))]
            dense = {key: matrix.dense_rows(start, stop) for key, matrix in obsm.items()}
            content.add(x.rows(start, stop), dense, names)
            bar.update(stop - start)
        bar.close()
    return content.hexdigest()
