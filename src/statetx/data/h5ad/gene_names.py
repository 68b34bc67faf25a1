"""Search for wanted gene names in a file: in a column of var, or without the version suffix."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from statetx.core.errors import DataError
from statetx.data.h5ad.obs_columns import index_key
from statetx.data.h5ad.obs_columns import names as names_of
from statetx.data.h5ad.open_h5ad import child, members, opened
from statetx.data.h5ad.stored_text import entries, stored

_MOST_COLUMNS = 64
"""Most columns of var that are searched."""
_ENOUGH = 0.5
"""Share of the wanted names that a column must contain to be proposed."""


def other_names(
    path: Path, wanted: Collection[str], listed: Sequence[str] | None = None
) -> str | None:
    """Return a line of Python that renames the genes of a file to the wanted names, or None.

    Parameters
    ----------
    path
        The h5ad.
    wanted
        Gene names of another file, or of a model.
    listed
        Genes of an obsm matrix, as ``uns['hvg_names']`` lists them; None: the genes of X.
    """
    try:
        with opened(path) as file:
            current = names_of(file, "var", path).tolist()
            index = index_key(child(file, "var", path))
            held = [name for name in members(file, "var", path) if name != index]
            maps = {}
            for name in held[:_MOST_COLUMNS]:
                texts = _texts(child(file, f"var/{name}", path), path)
                if texts is not None and len(texts) == len(current):
                    maps[f"adata.var[{name!r}].astype(str)"] = dict(
                        zip(current, texts, strict=True)
                    )
    except DataError:  # the hint is part of another error message and must not replace it
        return None
    maps['adata.var_names.to_series().str.split(".").str[0]'] = {
        name: name.split(".")[0] for name in current
    }
    return _best(maps, set(wanted), current if listed is None else list(listed), listed is not None)


def common_names(
    path: Path, names: Sequence[str], other: Path, others: Sequence[str]
) -> str | None:
    """Return how to rename the genes of one of two files to those of the other, or None.

    Parameters
    ----------
    path, names
        First file and its gene names.
    other, others
        Second file and its gene names.
    """
    for file, wanted in ((path, others), (other, names)):
        hint = other_names(file, wanted)
        if hint is not None:
            return f"in {file.name}, {hint}"
    return None


def _texts(item: Any, path: Path) -> list[str] | None:
    try:
        values, missing = entries(stored(item, path), path)
    except DataError:
        return None
    return np.where(missing, "", values).tolist()


def _best(
    maps: Mapping[str, Mapping[str, str]], wanted: set[str], names: list[str], of_obsm: bool
) -> str | None:
    """Return the hint for the source that gives most of the wanted names, or None."""
    matches = {
        source: len({known.get(name, "") for name in names} & wanted)
        for source, known in maps.items()
    }
    source = max(matches, key=lambda name: matches[name])
    n = matches[source]
    if n < _ENOUGH * len(wanted) or n <= len(wanted.intersection(names)):
        return None
    start = f"{n:,} of these {len(wanted):,} names are in the file: "
    if not of_obsm:
        twice = len(set(maps[source].values())) < len(maps[source])
        more = "; adata.var_names_make_unique()" if twice else ""
        return f"{start}adata.var_names = {source}.to_numpy(){more}"
    return (
        f"{start}new = {source}; adata.uns['hvg_names'] = new[adata.uns['hvg_names']].to_numpy(); "
        "adata.var_names = new.to_numpy()"
    )
