"""The packed store: cells of a data set, sorted, in files that are mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from statetx.data.store.store import Store


def open(directory: str | Path, genes: str | Path | None = None) -> Store:
    """Open a packed store; `genes` is a file of genes that were chosen on a split."""
    from statetx.data.store.store import open_store

    return open_store(directory, genes)
