"""Where a file keeps the gene names that somebody wants: in a column of var, or behind a version."""

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
"""Columns of var that are looked at."""
_ENOUGH = 0.5
"""Share of the wanted names that a column must hold to be proposed."""


def other_names(
    path: Path, wanted: Collection[str], listed: Sequence[str] | None = None
) -> str | None:
    """Return the line of Python that gives genes the names that are wanted, or None.

    Parameters
    ----------
    path
        The h5ad.
    wanted
        Names of another file, or of a model.
    listed
        Genes of an obsm matrix, which ``uns['hvg_names']`` lists; None: those of X.
    """
    try:
        with opened(path) as file:
            own = names_of(file, "var", path).tolist()
            index = index_key(child(file, "var", path))
            held = [name for name in members(file, "var", path) if name != index]
            maps = {}
            for name in held[:_MOST_COLUMNS]:
                texts = _texts(child(file, f"var/{name}", path), path)
                if texts is not None and len(texts) == len(own):
                    maps[f"adata.var[{name!r}].astype(str)"] = dict(zip(own, texts, strict=True))
    except DataError:  # this is a hint beside another error, and must not hide that
        return None
    maps['adata.var_names.to_series().str.split(".").str[0]'] = {
        name: name.split(".")[0] for name in own
    }
    return _best(maps, set(wanted), own if listed is None else list(listed), listed is not None)


def common_names(
    path: Path, names: Sequence[str], other: Path, others: Sequence[str]
) -> str | None:
    """Return how one of two files gets the gene names of the other, or None."""
    for one, wanted in ((path, others), (other, names)):
        found = other_names(one, wanted)
        if found is not None:
            return f"in {one.name}, {found}"
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
    found = {
        source: len({known.get(name, "") for name in names} & wanted)
        for source, known in maps.items()
    }
    source = max(found, key=lambda one: found[one])
    if found[source] < _ENOUGH * len(wanted) or found[source] <= len(wanted.intersection(names)):
        return None
    told = f"{found[source]:,} of these {len(wanted):,} names are in the file: "
    if not of_obsm:
        twice = len(set(maps[source].values())) < len(maps[source])
        more = "; adata.var_names_make_unique()" if twice else ""
        return f"{told}adata.var_names = {source}.to_numpy(){more}"
    return (
        f"{told}new = {source}; adata.uns['hvg_names'] = new[adata.uns['hvg_names']].to_numpy(); "
        "adata.var_names = new.to_numpy()"
    )
