"""Score one cell line from its cells: columns of cell-eval, and our scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

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
from statetx.evaluation.scores.energy_and_mmd import EnergyFrom, Sample
from statetx.evaluation.standalone.line_scores import LineCells, OurScores
from statetx.shared.labels import WITH_DOSES, Reading

MOST_AHEAD = 8
"""Most labels whose cells are read while another label is scored."""


@dataclass(frozen=True)
class Result:
    """Scores of one cell line.

    Attributes
    ----------
    labels
        Perturbations, sorted.
    columns
        Columns of cell-eval.
    scores
        Our scores, one row per perturbation; None if they were not requested.
    tables
        ``real`` and ``pred``: differential expression that was computed for `columns`.
    """

    labels: list[str]
    columns: dict[str, Column]
    scores: pd.DataFrame | None
    tables: dict[str, DETable]


def score_line(
    line: str,
    *,
    real: LineCells,
    predicted: LineCells,
    predicted_on_real_scale: LineCells,
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
    """Score one cell line.

    Parameters
    ----------
    line
        Name of the line.
    real
        Real cells and controls.
    predicted
        Predicted cells with the controls of their own file, for the columns of cell-eval.
    predicted_on_real_scale
        Predicted cells on the scale of the real file with the real controls, for our scores.
    genes
        The G genes.
    profile, max_cells, seed
        As for `evaluate_files`.
    reference
        float64 [G], mean delta of training conditions; None: training conditions are unknown.
    skip, with_scores
        As for `evaluate_files`.
    supplied
        ``real`` and ``pred``, each optional: differential expression for the columns of cell-eval.
        It is computed if it is not supplied.
    reading
        How labels are read.
    """
    supplied, labels = supplied or {}, sorted(real.cells)
    chosen = cell_eval.columns(profile, skip)
    cells_of = {"real": real, "pred": predicted}
    with_de = cell_eval.needs_de(chosen)
    collected = _Collected(
        cells_of,
        tested=[name for name in cells_of if with_de and name not in supplied],
        needs_energy=cell_eval.needs_energy(chosen),
    )
    our_scores = None
    if with_scores:
        described, controls = reading.described(labels), collected.controls["real"]
        our_scores = OurScores(line, real, controls, described, max_cells, seed, reference)
    # Without sums over pairs of cells, threads test several labels at the same time.
    only_tests = our_scores is None and not collected.needs_energy
    against = {name: collected.controls[name] for name in collected.tested} if only_tests else {}
    for ready in _read_ahead(line, labels, cells_of, against):
        compared = collected.add(ready)
        samples: Mapping[str, Sample | None] = {}
        if our_scores and predicted_on_real_scale.cells is predicted.cells:
            samples = our_scores.add(ready.label, ready.cells, compared)
        elif our_scores:
            cells = {
                "real": ready.cells["real"],
                "pred": predicted_on_real_scale.cells[ready.label],
            }
            our_samples = our_scores.add(ready.label, cells, {"real": compared["real"]})
            samples = {"real": our_samples["real"]}
        if collected.needs_energy:
            collected.add_energies(ready, samples)
    computed = collected.tables(genes)
    tables: Mapping[str, DETable | Tests] = {**computed, **supplied} if with_de else {}
    columns = cell_eval.evaluate(collected.panel(labels, genes, tables), chosen)
    scores = our_scores.table(labels, genes) if our_scores else None
    return Result(labels, columns, scores, computed)


class _Ready(NamedTuple):
    """Cells of one label; the keys of each mapping are ``real`` and ``pred``.

    Attributes
    ----------
    label
        The perturbation.
    cells
        Its cells [n, G].
    sorted
        The same cells, sorted gene by gene.
    tests
        Their differential expression, if it was requested.
    """

    label: str
    cells: dict[str, Any]
    sorted: dict[str, SortedCells]
    tests: dict[str, DERow]


class _Collected:
    """Values for the columns of cell-eval, collected label by label.

    The keys of each mapping are ``real`` and ``pred``.

    Attributes
    ----------
    controls
        Sorted controls; the same object twice if both files contain the same controls.
    tested
        Keys of the cells whose differential expression is computed.
    needs_energy
        Whether energy distances from the controls are computed.
    """

    def __init__(
        self, cells_of: Mapping[str, LineCells], *, tested: Sequence[str], needs_energy: bool
    ) -> None:
        self._sides, self.tested, self.needs_energy = cells_of, tested, needs_energy
        real, predicted = cells_of["real"].control, cells_of["pred"].control
        centre = centre_of(real)
        self.controls = dict.fromkeys(cells_of, SortedControl.from_cells(real))
        self._energy_from = dict.fromkeys(cells_of, EnergyFrom(real, centre))
        if not _are_same(real, predicted):
            self.controls["pred"] = SortedControl.from_cells(predicted)
            self._energy_from["pred"] = EnergyFrom(predicted, centre)
        self._means: dict[str, list[np.ndarray]] = {name: [] for name in cells_of}
        self._rows: dict[str, list[DERow]] = {name: [] for name in cells_of}
        self._energies: dict[str, list[float]] = {name: [] for name in cells_of}

    def add(self, ready: _Ready) -> dict[str, DERow | SortedCells]:
        """Add a label.

        Parameters
        ----------
        ready
            Its cells.

        Returns
        -------
        dict
            Its cells, tested if that was against the real controls, else sorted.
        """
        known: dict[str, DERow | SortedCells] = dict(ready.sorted)
        for name in self._sides:
            self._means[name].append(ready.sorted[name].mean)
            if name not in self.tested:
                continue
            controls = self.controls[name]
            test = ready.tests.get(name) or de_row(ready.label, ready.sorted[name], controls)
            self._rows[name].append(test)
            if controls is self.controls["real"]:
                known[name] = test
        return known

    def add_energies(self, ready: _Ready, samples: Mapping[str, Sample | None]) -> None:
        """Compute and add energy distances from the controls.

        Parameters
        ----------
        ready
            Cells of a label.
        samples
            The same cells as samples, whose sums over pairs are known; None: not all of them.
        """
        for name in self._sides:
            sample = samples.get(name)
            cells = ready.cells[name] if sample is None else sample
            self._energies[name].append(self._energy_from[name](cells))

    def tables(self, genes: list[str]) -> dict[str, DETable]:
        """Return the differential expression that was computed.

        Parameters
        ----------
        genes
            The G genes.
        """
        return {name: table_of(rows, genes) for name, rows in self._rows.items() if rows}

    def panel(
        self, labels: list[str], genes: list[str], tables: Mapping[str, DETable | Tests]
    ) -> cell_eval.Panel:
        """Return profiles and tests as cell-eval compares them.

        Parameters
        ----------
        labels, genes
            The P perturbations and the G genes.
        tables
            Differential expression, computed or supplied.
        """
        embedded = _embedded(labels, self._sides)
        energies = {
            name: np.array(values) if self.needs_energy else None
            for name, values in self._energies.items()
        }
        return cell_eval.Panel(
            labels=labels,
            genes=genes,
            real=np.array(self._means["real"]),
            pred=np.array(self._means["pred"]),
            real_control=mean_of(self._sides["real"].control),
            pred_control=mean_of(self._sides["pred"].control),
            real_de=tables.get("real"),
            pred_de=tables.get("pred"),
            real_energy=energies["real"],
            pred_energy=energies["pred"],
            real_embedded=embedded.get("real"),
            pred_embedded=embedded.get("pred"),
        )


def _read_ahead(
    line: str,
    labels: list[str],
    cells_of: Mapping[str, LineCells],
    against: Mapping[str, SortedControl],
) -> Iterator[_Ready]:
    """Yield the cells of one label after the other, sorted, and tested `against` controls.

    The next labels are read in the meantime. If `against` is not empty, each thread tests whole
    labels: one label on all threads was not faster than on one thread. `against` must be empty if
    sums over pairs are computed too. Those use all threads, and testing labels at the same time
    would cost 5 %.
    """

    def read(label: str) -> _Ready:
        cells = {name: line_cells.cells[label] for name, line_cells in cells_of.items()}
        ready = {name: SortedCells.from_cells(matrix) for name, matrix in cells.items()}
        tests = {
            name: de_row(label, ready[name], control, single_threaded=True)
            for name, control in against.items()
        }
        return _Ready(label, cells, ready, tests)

    workers = min(numba.get_num_threads(), MOST_AHEAD) if against else 1
    following = iter(labels)
    with ThreadPoolExecutor(workers) as pool:
        coming = deque(pool.submit(read, label) for label in islice(following, workers))
        bar = tqdm(labels, desc=f"score {line}", unit="label", disable=None, leave=False)
        for _ in bar:
            ready = coming.popleft().result()
            coming.extend(pool.submit(read, label) for label in islice(following, 1))
            yield ready


def _embedded(labels: list[str], cells_of: Mapping[str, LineCells]) -> dict[str, np.ndarray]:
    if not cells_of["real"].embedded:
        return {}
    (control,) = set(cells_of["real"].embedded) - set(labels)
    return {
        name: np.array([line_cells.embedded[p] - line_cells.embedded[control] for p in labels])
        for name, line_cells in cells_of.items()
    }


def _are_same(x: Any, y: Any) -> bool:
    """Return whether two matrices contain the same cells in the same order."""
    if x is y:
        return True
    if x.shape != y.shape or x.dtype != y.dtype or sparse.issparse(x) != sparse.issparse(y):
        return False
    differ = x != y
    return not (differ.nnz if sparse.issparse(differ) else differ.any())
