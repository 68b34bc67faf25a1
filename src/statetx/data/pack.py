"""Pack h5ad files into the store: one h5ad per cell line, sorted by condition, mappable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse
from tqdm import tqdm

from statetx import labels
from statetx.config import Dataset
from statetx.data.checks import check_scales, check_together
from statetx.data.header import Header, barcodes, header, identity, opened
from statetx.data.layout import FORMAT, file_name
from statetx.data.matrix import Matrix, check_values, evidence, is_integral, refuse_other_scale
from statetx.errors import DataError
from statetx.provenance import versions, whole, write_json

ALIGNMENT = 64
"""Bytes: every dataset of at least this size starts on a cache line, so that a mapped array of any
type is aligned."""
GROUP_BYTES = 1 << 30
"""Lines are gathered together, in one pass over the files, up to so many bytes of cells."""
SHUFFLE_SEED = 0
"""Of the permutation inside (perturbation, batch). A constant: the store is a function of its data,
and the draws that matter (sets, controls, subsamples) have seeds of their own."""


@dataclass
class _Gathered:
    """The cells of one line as they come from the files."""

    counts: list[sparse.csr_matrix] = field(default_factory=list)
    obsm: dict[str, list[np.ndarray]] = field(default_factory=dict)
    perturbation: list[np.ndarray] = field(default_factory=list)
    batch: list[np.ndarray] = field(default_factory=list)
    totals: list[np.ndarray] = field(default_factory=list)
    names: list[np.ndarray] = field(default_factory=list)
    origin: list[np.ndarray] = field(default_factory=list)


def pack(
    files: Sequence[str | Path],
    settings: Dataset,
    name: str,
    out_dir: str | Path,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write the store of a data set: ``<cell line>.h5ad``, ``conditions.parquet``, ``manifest.json``.

    All files appear together at the end, the manifest last; after an error none does, and other
    files in `out_dir` are left alone. Equal data gives equal bytes, whatever the modification times.
    Memory: the cells of the largest line (or `GROUP_BYTES`), about three times while they are
    sorted; a CSC matrix is held in memory as a whole.

    Parameters
    ----------
    files
        h5ad files, never written to.
    settings
        What their columns mean.
    name
        Name of the data set.
    out_dir
        Directory, made if need be.
    provenance
        Goes into the manifest beside the versions.

    Raises
    ------
    DataError
        The files are not what `settings` declares.
    ResultsError
        `out_dir` cannot be written to.
    """
    paths = [Path(path) for path in files]
    _no_repeats(paths)
    headers = [header(path, settings) for path in paths]
    check_together(headers, settings)
    for path in paths:
        check_scales(path, settings)

    out = Path(out_dir)
    conditions: list[pd.DataFrame] = []
    entries: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        # Left in reverse order: the manifest, entered first, is renamed into place last.
        manifest_part = stack.enter_context(whole(out / "manifest.json"))
        conditions_part = stack.enter_context(whole(out / "conditions.parquet"))
        sizes = _line_sizes(headers)
        bar = stack.enter_context(
            tqdm(total=sum(sizes.values()), unit="cell", desc="pack", disable=None)
        )
        for group in _groups(sizes, _bytes_per_cell(headers)):
            gathered = _gather(headers, settings, group, bar)
            for line in group:
                part = stack.enter_context(whole(out / f"{file_name(line)}.h5ad"))
                table = _write_line(part, line, gathered.pop(line), headers[0], settings)
                conditions.append(table)
                control = table["is_control"]
                entries.append(
                    {
                        "name": line,
                        "file": f"{file_name(line)}.h5ad",
                        "n_cells": int(table["n_cells"].sum()),
                        "n_controls": int(table.loc[control, "n_cells"].sum()),
                    }
                )
        pd.concat(conditions, ignore_index=True).to_parquet(conditions_part, index=False)
        manifest = _manifest(headers, settings, name, entries, provenance or {})
        write_json(manifest_part, manifest)


def _no_repeats(paths: list[Path]) -> None:
    if not paths:
        raise DataError("no files to pack", fix="give `files` of the data set paths or globs")
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise DataError(
                "the same file is listed twice, which would double its cells",
                where=f"{seen[path.resolve()]} and {path}",
                fix="list every file once in `files`",
            )
        seen[path.resolve()] = path


def _line_sizes(headers: list[Header]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for found in headers:
        for line, n in found.line.counts().items():
            sizes[line] = sizes.get(line, 0) + n
    return dict(sorted(sizes.items()))


def _bytes_per_cell(headers: list[Header]) -> float:
    first = headers[0]
    with opened(first.path) as file:
        zeros = evidence(Matrix(file, "X", first.path)).zeros
    return 8.0 * (1.0 - zeros) * len(first.genes) + 4.0 * sum(first.widths.values()) + 100.0


def _groups(sizes: dict[str, int], bytes_per_cell: float) -> Iterator[list[str]]:
    """Yield lines in order, as many together as `GROUP_BYTES` hold."""
    group: list[str] = []
    held = 0.0
    for line, n in sizes.items():
        if group and held + n * bytes_per_cell > GROUP_BYTES:
            yield group
            group, held = [], 0.0
        group.append(line)
        held += n * bytes_per_cell
    yield group


def _gather(
    headers: list[Header], settings: Dataset, group: list[str], bar: tqdm
) -> dict[str, _Gathered]:
    """Read the cells of the lines in `group`, file by file and chunk by chunk."""
    out = {line: _Gathered() for line in group}
    for number, found in enumerate(headers):
        chosen = [i for i, line in enumerate(found.line.names) if line in out]
        wanted = np.isin(found.line.codes, chosen)
        if not wanted.any():
            continue
        with opened(found.path) as file:
            x = Matrix(file, "X", found.path)
            obsm = {key: Matrix(file, f"obsm/{key}", found.path) for key in found.widths}
            names = barcodes(file, found.path)
            step = min([x.chunk_rows, *(m.chunk_rows for m in obsm.values())])
            for start in range(0, found.n_cells, step):
                stop = min(found.n_cells, start + step)
                if not wanted[start:stop].any():
                    continue
                counts = x.rows(start, stop)
                check_values(counts, found.path, "X", start, found.genes)
                dense = {}
                for key, matrix in obsm.items():
                    dense[key] = matrix.dense_rows(start, stop)
                    known = found.hvg if key == settings.expression_key else None
                    check_values(dense[key], found.path, f"obsm/{key}", start, known)
                codes = found.line.codes[start:stop]
                for code in chosen:
                    here = np.flatnonzero(codes == code)
                    if not here.size:
                        continue
                    rows = here + start
                    part = out[found.line.names[code]]
                    part.counts.append(counts[here])
                    for key, values in dense.items():
                        part.obsm.setdefault(key, []).append(values[here])
                    part.perturbation.append(found.perturbation.values_at(rows))
                    part.batch.append(found.batch.values_at(rows))
                    if found.totals is not None:
                        part.totals.append(found.totals[rows])
                    part.names.append(names[rows])
                    part.origin.append(np.column_stack([np.full(len(rows), number), rows]))
                    bar.update(len(rows))
    return out


def _write_line(
    path: Path, line: str, cells: _Gathered, first: Header, settings: Dataset
) -> pd.DataFrame:
    """Sort one line, write it, and return its rows of ``conditions.parquet``."""
    declared = labels.controls(settings.control_pert)
    raw = np.concatenate(cells.perturbation)
    alias = np.isin(raw.astype(str), declared[1:])
    perturbation = np.where(alias, declared[0], raw)
    batch = np.concatenate(cells.batch)
    pert_codes, pert_names = pd.factorize(perturbation, sort=True)
    batch_codes, batch_names = pd.factorize(batch, sort=True)
    rng = np.random.default_rng([SHUFFLE_SEED, *line.encode()])
    order = np.lexsort((rng.permutation(len(raw)), batch_codes, pert_codes))

    counts = sparse.vstack(cells.counts, format="csr")
    cells.counts.clear()
    counts = counts[order]
    total = _totals(counts, cells, order, settings)
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical.from_codes(pert_codes[order], pd.Index(pert_names)),
            "cell_line": pd.Categorical([line] * len(order)),
            "batch": pd.Categorical.from_codes(batch_codes[order], pd.Index(batch_names)),
            "total_counts": total,
        },
        index=pd.Index(_unique(np.concatenate(cells.names), np.concatenate(cells.origin))[order]),
    )
    if alias.any():
        obs["raw_label"] = pd.Categorical(raw[order].astype(str))
    with h5py.File(path, "w", alignment_threshold=ALIGNMENT, alignment_interval=ALIGNMENT) as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write_csr(file, counts, settings.scale, line)
        del counts
        write = anndata.io.write_elem
        write(file, "obs", obs)
        write(file, "var", pd.DataFrame(index=pd.Index(first.genes)))
        obsm = {
            key: np.concatenate(parts)[order].astype(np.float32, copy=False)
            for key, parts in sorted(cells.obsm.items())
        }
        write(file, "obsm", obsm)
        uns = {} if first.hvg is None else {"hvg_names": np.asarray(first.hvg, dtype=object)}
        write(file, "uns", uns)
        for empty in ("layers", "obsp", "varm", "varp"):
            write(file, empty, {})
    return _conditions(line, obs, declared[0])


def _write_csr(file: h5py.File, counts: sparse.csr_matrix, scale: str, line: str) -> None:
    """Write X in the smallest exact types, contiguous and uncompressed."""
    largest = float(counts.data.max()) if counts.nnz else 0.0
    integral = is_integral(counts.data)
    if counts.nnz:  # the sample looked at before may have missed this line
        refuse_other_scale(integral, largest, scale, "X", f"cell line {line!r}")
    kind: Any = np.float32
    if scale == "counts" and integral and largest <= np.iinfo(np.int32).max:
        kind = np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32
    narrow = np.uint16 if counts.shape[1] < 2**16 else np.int32
    group = file.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = np.asarray(counts.shape, dtype=np.int64)
    group.create_dataset("indptr", data=counts.indptr.astype(np.int64))
    group.create_dataset("indices", data=counts.indices.astype(narrow))
    group.create_dataset("data", data=counts.data.astype(kind))


def _totals(
    counts: sparse.csr_matrix, cells: _Gathered, order: np.ndarray, settings: Dataset
) -> np.ndarray:
    """Total counts per cell, float64 [n]: the declared column, or the row sum over all genes.

    With ``scale: log1p`` the row sum is that of exp(X) - 1: ``target_sum`` where no gene is missing.
    """
    if cells.totals:
        return np.concatenate(cells.totals)[order]
    values = counts.astype(np.float64)
    if settings.scale == "log1p":
        values = values.expm1()
    return np.asarray(values.sum(axis=1), dtype=np.float64).ravel()


def _unique(names: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return the barcodes; where one repeats inside a line, ``barcode#<file>.<row>`` instead."""
    again = pd.Series(names).duplicated(keep=False).to_numpy()
    out = names.copy()
    for i in np.flatnonzero(again):
        out[i] = f"{names[i]}#{origin[i, 0]}.{origin[i, 1]}"
    return out


def _conditions(line: str, obs: pd.DataFrame, control: str) -> pd.DataFrame:
    """Return one row per run of equal (perturbation, batch)."""
    codes = np.column_stack([obs["perturbation"].cat.codes, obs["batch"].cat.codes])
    starts = np.flatnonzero(np.r_[True, (codes[1:] != codes[:-1]).any(axis=1)])
    heads = obs.iloc[starts]
    parsed = [labels.parse(str(raw)) for raw in heads["perturbation"]]
    return pd.DataFrame(
        {
            "line": line,
            "perturbation": heads["perturbation"].astype(str).to_numpy(),
            "drug": [item.drug for item in parsed],
            "dose": np.asarray([item.dose for item in parsed], dtype=np.float64),
            "unit": [item.unit for item in parsed],
            "batch": heads["batch"].astype(str).to_numpy(),
            "is_control": (heads["perturbation"] == control).to_numpy(),
            "row_start": starts.astype(np.int64),
            "n_cells": np.diff(np.r_[starts, len(obs)]).astype(np.int64),
        }
    )


def _manifest(
    headers: list[Header],
    settings: Dataset,
    name: str,
    lines: list[dict[str, Any]],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    first, declared = headers[0], labels.controls(settings.control_pert)
    watched = [settings.pert_col, settings.cell_type_key, settings.batch_col]
    return {
        "format": FORMAT,
        "dataset": name,
        "genes": first.genes,
        "expression_key": settings.expression_key,
        "expression_genes": first.genes if first.hvg is None else first.hvg,
        "embeddings": first.widths,
        "control_pert": declared[0],
        "control_aliases": declared[1:],
        "pert_col": settings.pert_col,
        "cell_type_key": settings.cell_type_key,
        "batch_col": settings.batch_col,
        "scale": settings.scale,
        "target_sum": settings.target_sum,
        "total_counts_col": settings.total_counts_col,
        "labels_are_genes": settings.labels_are_genes,
        "lines": lines,
        "sources": [
            {
                "path": str(found.path),
                "bytes": found.path.stat().st_size,
                "identity": identity(found.path, watched),
            }
            for found in headers
        ],
        "provenance": {
            "versions": versions(("statetx", "numpy", "pandas", "anndata", "h5py")),
            **provenance,
        },
    }
