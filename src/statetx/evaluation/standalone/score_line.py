"""Score one cell line of cells in memory: cell-eval's columns and ours."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numba
import numpy as np
import pandas as pd
from scipy import sparse
from tqdm import tqdm

from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.cell_eval.de_columns import Column, Tests
from statetx.evaluation.numerics.pair_sums import centre_of
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.numerics.sorted_cells import SortedCells, mean_of
from statetx.evaluation.scores.differential_expression import DERow, DETable, de_row, table_of
from statetx.evaluation.scores.distances import EnergyFrom, Sample
from statetx.evaluation.standalone.line_scores import Half, OurScores
from statetx.shared.labels import WITH_DOSES, Reading

MOST_AHEAD = 8
"""Labels that are in memory at once, besides the one that is scored."""


@dataclass(frozen=True)
class Result:
    """Scores of one cell line.

    Attributes
    ----------
    labels
        Perturbations, sorted.
    columns
        cell-eval's columns.
    scores
        Ours, one row per perturbation; None if not wanted.
    tables
        ``real`` and ``pred``: differential expression that was computed for `columns`.
    """

    labels: list[str]
    columns: dict[str, Column]
    scores: pd.DataFrame | None
    tables: dict[str, DETable]


def evaluate_halves(
    line: str,
    truth: Half,
    own: Half,
    shared: Half,
    genes: list[str],
    profile: str,
    max_cells: int,
    seed: int,
    reference: np.ndarray | None = None,
    skip: Sequence[str] = (),
    with_scores: bool = True,
    supplied: Mapping[str, Tests] | None = None,
    reading: Reading = WITH_DOSES,
) -> Result:
    """Score one cell line in memory.

    Parameters
    ----------
    line
        Its name.
    truth, own, shared
        Real side, prediction with its own controls (for cell-eval's columns), and prediction on the
        real side's scale with the real controls (for ours).
    genes
        The G genes.
    profile, max_cells, seed
        As for `evaluate_files`.
    reference
        float64 [G], mean delta of training conditions; None: nothing is known of a training.
    skip, with_scores
        As for `evaluate_files`.
    supplied
        ``real`` and ``pred``, both or one: differential expression for cell-eval's columns, which
        is then not computed.
    reading
        How labels are read.
    """
    supplied = supplied or {}
    labels = sorted(truth.cells)
    chosen = cell_eval.columns(profile, skip)
    with_de, with_energy = cell_eval.needs_de(chosen), cell_eval.needs_energy(chosen)
    sides = {"real": truth, "pred": own}
    ranked = dict.fromkeys(sides, SortedControl.of(truth.control))
    centre = centre_of(truth.control)
    far = dict.fromkeys(sides, EnergyFrom(truth.control, centre))
    if not _are_same(truth.control, own.control):
        ranked["pred"] = SortedControl.of(own.control)
        far["pred"] = EnergyFrom(own.control, centre)
    ours = None
    if with_scores:
        ours = OurScores(
            line, truth, ranked["real"], reading.described(labels), max_cells, seed, reference
        )
    on_one_scale = shared.cells is own.cells
    means: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    rows: dict[str, list[DERow]] = {name: [] for name in sides}
    energies: dict[str, list[float]] = {name: [] for name in sides}
    tested = {name: ranked[name] for name in sides if with_de and name not in supplied}
    alone = ours is None and not with_energy
    for label, cells, in_order, tests in _ahead(line, labels, sides, tested if alone else {}):
        known: dict[str, DERow | SortedCells] = dict(in_order)
        for name in sides:
            means[name].append(in_order[name].mean)
            if name in tested:
                test = tests[name] if alone else de_row(label, in_order[name], ranked[name])
                rows[name].append(test)
                if ranked[name] is ranked["real"]:
                    known[name] = test
        samples: dict[str, Sample | None] = dict.fromkeys(sides)
        if ours and on_one_scale:
            samples = ours.add(label, cells["real"], cells["pred"], known["real"], known["pred"])
        elif ours:
            found = ours.add(label, cells["real"], shared.cells[label], known["real"], None)
            samples["real"] = found["real"]
        if with_energy:
            for name, sample in samples.items():
                energies[name].append(far[name](cells[name] if sample is None else sample))
    computed = {name: table_of(own_rows, genes) for name, own_rows in rows.items() if own_rows}
    tables: Mapping[str, DETable | Tests] = {**computed, **supplied} if with_de else {}
    embedded = _embedded(labels, sides)
    panel = cell_eval.Panel(
        labels,
        genes,
        np.array(means["real"]),
        np.array(means["pred"]),
        mean_of(truth.control),
        mean_of(own.control),
        tables.get("real"),
        tables.get("pred"),
        np.array(energies["real"]) if with_energy else None,
        np.array(energies["pred"]) if with_energy else None,
        embedded.get("real"),
        embedded.get("pred"),
    )
    columns = cell_eval.evaluate(panel, chosen)
    scores = ours.table(labels, genes) if ours else None
    return Result(labels, columns, scores, computed)


def _ahead(
    line: str, labels: list[str], sides: dict[str, Half], against: dict[str, SortedControl]
) -> Iterator[tuple[str, dict[str, Any], dict[str, SortedCells], dict[str, DERow]]]:
    """Cells of one label after the other: as they are, sorted, and tested `against` controls.

    The following labels are read meanwhile. With tests to make, which is then all there is to do,
    threads do whole labels side by side: one label on all threads was no faster than on one. Beside
    sums over pairs, which take all threads, that would cost 5 %.
    """

    def read(label: str) -> tuple[str, dict[str, Any], dict[str, SortedCells], dict[str, DERow]]:
        cells = {name: half.cells[label] for name, half in sides.items()}
        in_order = {name: SortedCells.of(side) for name, side in cells.items()}
        tests = {
            name: de_row(label, in_order[name], control, alone=True)
            for name, control in against.items()
        }
        return label, cells, in_order, tests

    workers = min(numba.get_num_threads(), MOST_AHEAD) if against else 1
    following = iter(labels)
    with ThreadPoolExecutor(workers) as pool:
        coming = deque(pool.submit(read, label) for label in islice(following, workers))
        bar = tqdm(labels, desc=f"score {line}", unit="label", disable=None, leave=False)
        for _ in bar:
            ready = coming.popleft().result()
            coming.extend(pool.submit(read, label) for label in islice(following, 1))
            yield ready


def _embedded(labels: list[str], sides: dict[str, Half]) -> dict[str, np.ndarray]:
    if not sides["real"].embedded:
        return {}
    (control,) = set(sides["real"].embedded) - set(labels)
    return {
        name: np.array([half.embedded[p] - half.embedded[control] for p in labels])
        for name, half in sides.items()
    }


def _are_same(x: Any, y: Any) -> bool:
    """Whether two sides hold the same control cells in the same order."""
    if x is y:
        return True
    if x.shape != y.shape or x.dtype != y.dtype or sparse.issparse(x) != sparse.issparse(y):
        return False
    differ = x != y
    return not (differ.nnz if sparse.issparse(differ) else differ.any())
