"""The references of one line, scored like submissions: what nothing, the mean and a replicate reach.

The training reference of ``pearson_delta_perturbed`` is moved along with the controls that a side
subtracts, so that they cancel there as they do for a model. Subtracted as it is, the half of the
controls that one side lacks stands on the other side with the opposite sign.

floor
    What control cells score: pseudo-predictions drawn from the controls (of the condition's
    batches), minus the mean of the controls that remain. Disjoint, so no cell is on both sides of the delta;
    and since the real side subtracts all controls, the two deltas share no noise:
    cov(q - rest, r - all) = 0. With the same controls on both sides it would be the variance of
    their mean, and doing nothing would correlate with the truth.
mean response
    What one answer for every perturbation scores: control cells scaled gene by gene until their mean
    is exactly the line's control profile plus its mean training delta. It is the lower end of the
    dynamic range, and there for every experiment, whichever baselines that names.
ceiling
    What a replicate of half the size scores: one half of the real cells as prediction of the other
    half, each with its own half of the controls. A shared control inflates agreement: a
    correlation of 0.54 between independent halves then reads 0.74 (cell-eval2's measurement).
interpolated duplicate
    The half that predicts in the ceiling, trusted only where it knows something: gene by gene
    (1 - q) of its mean and q of the mean response, q = adjusted p of that half against its own half
    of the controls, so that nothing of the half to be predicted goes in. It lacks most of the sampling
    noise for which a replicate of half the size is no upper end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from statetx.evaluation.held_out.batch_controls import BatchControls
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.held_out.reference_files import RealCondition, reference_note
from statetx.evaluation.held_out.training_reference import OWN_LINE, MeanDelta
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.scores.conditions import Condition, score
from statetx.evaluation.scores.covariance import covariance_agreement
from statetx.evaluation.scores.differential_expression import (
    DERow,
    benjamini_hochberg,
    de_row,
    table_of,
)
from statetx.evaluation.scores.distances import all_distances
from statetx.evaluation.scores.pseudobulk import Controls, Group, Profile
from statetx.shared.expression import largest_log1p
from statetx.shared.moved_cells import expressed_in, move
from statetx.shared.seeds import generator


def _moved_group(cells: np.ndarray, mean: np.ndarray) -> Group:
    """Sums of cells scaled to a mean: that mean exactly, not as float32 stores it.

    Equal predictions must tie in ``pds_cosine``, which rounding would break by chance.
    """
    group = Group.from_cells(cells)
    return Group(group.n, mean, group.squares)


@dataclass(frozen=True)
class _Side:
    """One side of a condition: cells, their sums, delta, training reference and tests."""

    cells: np.ndarray
    group: Group
    delta: np.ndarray
    shift: np.ndarray | None
    test: DERow


@dataclass(frozen=True)
class ReferencePredictions:
    """Makes the references of one line; each is a table as `scores.score` returns it.

    Attributes
    ----------
    held_out, controls
        The line, and the controls that each condition is tested against.
    real, rows
        Perturbation -> real side, and its differential expression.
    training
        Mean delta of the training conditions.
    gammas
        Kernel widths of the MMD.
    """

    held_out: HeldOutLine
    controls: BatchControls
    real: Mapping[str, RealCondition]
    rows: Mapping[str, DERow]
    training: MeanDelta
    gammas: list[float]

    @property
    def trained(self) -> bool:
        """Whether there are training conditions, and so a mean response."""
        return self.training.values is not None

    def floor(self) -> pd.DataFrame:
        """Score held-out control cells."""
        held_out, table = self.held_out, _Table(self)
        largest = len(held_out.all_control_rows) // 2
        for name in self._named(2) if largest >= 2 else []:
            batches = held_out.batches(held_out.rows(name))
            drawn = held_out.draw_controls(batches, min(len(batches), largest), f"floor:{name}")
            cells = held_out.line.expression(drawn)
            pseudo = Group.from_cells(cells)
            rest = held_out.controls.all_controls.without(pseudo)
            left = np.setdiff1d(self.controls.rows_for(batches), drawn)
            if not len(left):
                left = np.setdiff1d(held_out.all_control_rows, drawn)
            side = _Side(
                cells,
                pseudo,
                held_out.controls.between(pseudo.mean, rest.mean),
                self._moved(held_out.controls, rest.mean),
                de_row(name, cells, SortedControl.from_cells(held_out.line.expression(left))),
            )
            table.add(name, self._real_side(name), side, self.real[name].control, pseudo.noise)
        return table.scored()

    def mean_response(self) -> pd.DataFrame:
        """Score one profile for every perturbation.

        The cells are drawn without replacement: a cell drawn twice has distance 0 to itself.
        """
        held_out, table, delta = self.held_out, _Table(self), self.training.values
        if delta is None:
            return table.scored()
        profile = np.maximum(held_out.controls.all_controls.mean + delta, 0.0)
        for name in self._named(2):
            batches = held_out.batches(held_out.rows(name))
            n = min(len(batches), len(held_out.all_control_rows))
            drawn = held_out.draw_controls(batches, n, f"mean response:{name}")
            cells = self._scaled(held_out.line.expression(drawn), profile, f"mean response:{name}")
            test = de_row(name, cells, self.controls.for_batches(batches))
            side = _Side(
                cells, _moved_group(cells, profile), held_out.controls.delta(profile), delta, test
            )
            table.add(name, self._real_side(name), side, self.real[name].control, 0.0)
        return table.scored()

    def replicates(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Score one half of the real cells as prediction of the other: as it is, and interpolated."""
        held_out = self.held_out
        plain, mixed = _Table(self), _Table(self)
        names = self._named(4) if len(held_out.all_control_rows) >= 4 else []
        halves = held_out.halves(held_out.all_control_rows, "control") if names else ()
        controls = [held_out.sum_controls(half, held_out.controls.known) for half in halves]
        sorted_halves = [BatchControls(held_out, half) for half in halves]
        shifts = [self._moved(half, half.all_controls.mean) for half in controls]
        for name in names:
            batches = held_out.batches(held_out.rows(name))
            rows = held_out.halves(held_out.rows(name), name)
            sides, matched = [], []
            for i, half in enumerate(rows):
                cells = held_out.line.expression(half)
                group, test = (
                    Group.from_cells(cells),
                    de_row(name, cells, sorted_halves[i].for_batches(batches)),
                )
                sides.append(_Side(cells, group, controls[i].delta(group.mean), shifts[i], test))
                matched.append(controls[i].matched(held_out.batches(half)))
            real, pred = sides
            plain.add(name, real, pred, matched[0], pred.group.noise)
            if pred.shift is None:
                continue
            # Its mean response knows the plate, as a model's does that starts from cells of it.
            mean = np.maximum(matched[1].mean + pred.shift, 0.0)
            q = benjamini_hochberg(pred.test.test.pvalue)
            mixture = (1 - q) * pred.group.mean + q * mean
            cells = self._scaled(pred.cells, mixture, f"interpolated:{name}")
            test = de_row(name, cells, sorted_halves[1].for_batches(batches))
            delta = controls[1].delta(mixture)
            side = _Side(cells, _moved_group(cells, mixture), delta, pred.shift, test)
            # No noise is taken off: like a model's, the mean as delivered is the prediction.
            mixed.add(name, real, side, matched[0], 0.0)
        return plain.scored(), mixed.scored()

    @cached_property
    def _expressed(self) -> np.ndarray:
        return expressed_in(self.held_out.control_cells)

    def _scaled(self, cells: np.ndarray, mean: np.ndarray, key: str) -> np.ndarray:
        rng = generator("scaled", self.held_out.seed, self.held_out.line.name, key)
        most = largest_log1p(self.held_out.target_sum)
        return move(cells, mean, self._expressed, rng, most)

    def _named(self, least: int) -> list[str]:
        """Perturbations with at least so many real cells."""
        return [name for name, real in self.real.items() if real.cells.n >= least]

    def _real_side(self, name: str) -> _Side:
        """All real cells of a condition."""
        real = self.real[name]
        shift, test = self.training.values, self.rows[name]
        return _Side(self.held_out.cells(name), real.cells, real.delta, shift, test)

    def _moved(self, controls: Controls, mean: np.ndarray) -> np.ndarray | None:
        """Training reference [G] of a side that subtracts the control profile `mean` [G].

        That of other lines does not hold this line's controls: there is nothing to cancel.
        """
        delta = self.training.values
        if delta is None or self.training.taken_from != OWN_LINE:
            return delta
        return controls.project(delta + self.held_out.controls.all_controls.mean - mean)


class _Table:
    """Collects conditions; of their cells only the scores stay."""

    def __init__(self, maker: ReferencePredictions) -> None:
        self._maker = maker
        self._conditions: list[Condition] = []
        self._tests: tuple[list[DERow], list[DERow]] = ([], [])

    def add(self, name: str, real: _Side, pred: _Side, control: Profile, noise: float) -> None:
        """Take in a condition; `noise`: sampling noise that the predicted mean is known to have."""
        distances, _ = all_distances(pred.cells, real.cells, self._maker.gammas)
        references = None
        if real.shift is not None and pred.shift is not None:
            references = real.shift, pred.shift
        drug, dose = self._maker.held_out.identity(name)
        self._conditions.append(
            Condition(
                perturbation=name,
                real=real.group,
                pred=pred.group,
                real_delta=real.delta,
                pred_delta=pred.delta,
                control=control,
                references=references,
                distances=distances,
                covariance=covariance_agreement(pred.cells, real.cells, real.test.log2_fold_change),
                drug=drug,
                dose=dose,
                notes=reference_note(self._maker.training),
                pred_noise=noise,
            )
        )
        for tests, side in zip(self._tests, (real, pred), strict=True):
            tests.append(side.test)

    def scored(self) -> pd.DataFrame:
        """Scores of all of them."""
        held_out = self._maker.held_out
        real, pred = (table_of(rows, held_out.genes) for rows in self._tests)
        return score(self._conditions, real, pred, held_out.excluded)
