"""Reference predictions for one cell line, scored exactly like a model.

floor
    Control cells as prediction. They are drawn from the controls (of the batches of the condition),
    and their delta subtracts the mean of the remaining controls, so no cell occurs twice in this
    delta. The real delta subtracts all controls. The two deltas then share no noise:
    cov(q - rest, r - all) = 0. If both subtracted the same controls, this would be the variance of
    their mean, and control cells would correlate with real effects.
mean response
    One profile for all perturbations: control cells, scaled gene by gene until their mean is
    exactly the control profile of the line plus its mean training delta. It is the lower limit of
    the dynamic range in all experiments, independent of the baselines that they name.
ceiling
    A real replicate of half the size: one half of the real cells as prediction of the other half.
    Each half subtracts its own half of the controls. A shared control inflates agreement: a
    correlation of 0.54 between independent halves then becomes 0.74 (measured by cell-eval2).
interpolated duplicate
    The predicting half of the ceiling, used only for genes with evidence. Gene by gene it is
    (1 - q) times the mean of that half plus q times the mean response. q is the adjusted p-value of
    that half against its half of the controls, so the half to be predicted is not used. Most of the
    sampling noise of the half is removed. Because of that noise, a replicate of half the size is
    not an upper limit.

``pearson_delta_perturbed`` subtracts a training reference. It is adjusted to the controls that a
delta subtracts, so that controls cancel there as they do for a model. Without this adjustment, the
controls that only one of the two deltas subtracts would remain with opposite signs.
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
from statetx.evaluation.scores.energy_and_mmd import all_distances
from statetx.evaluation.scores.pseudobulk import Controls, Group, Profile
from statetx.shared.expression import largest_log1p
from statetx.shared.moved_cells import expressed_in, move
from statetx.shared.seeds import generator


def _moved_group(cells: np.ndarray, mean: np.ndarray) -> Group:
    """Summarise cells that were scaled to a mean, with exactly that mean instead of its rounding.

    Equal predictions must tie in ``pds_cosine``. float32 rounding would break ties at random.
    """
    group = Group.from_cells(cells)
    return Group(group.n, mean, group.squares)


@dataclass(frozen=True)
class _CellSet:
    """Real or predicted cells of a condition, with their summary, delta and tests.

    Attributes
    ----------
    cells
        [n, G], log1p values.
    group
        Summary of the cells.
    delta
        float64 [G], mean profile minus controls.
    shift
        float64 [G], training reference that `pearson_delta_perturbed` subtracts; None: none.
    test
        Differential expression.
    """

    cells: np.ndarray
    group: Group
    delta: np.ndarray
    shift: np.ndarray | None
    test: DERow


@dataclass(frozen=True)
class ReferencePredictions:
    """Reference predictions of one line and their scores, as `conditions.score` returns them.

    Attributes
    ----------
    held_out, controls
        The line, and the controls that its conditions are tested against.
    real, rows
        Perturbation -> real values, and its differential expression.
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
        """Whether there are training conditions and therefore a mean response."""
        return self.training.values is not None

    def floor(self) -> pd.DataFrame:
        """Score held-out control cells."""
        held_out, table = self.held_out, _Table(self)
        largest = len(held_out.all_control_rows) // 2
        for name in self._with_cells(2) if largest >= 2 else []:
            batches = held_out.batches(held_out.rows(name))
            drawn = held_out.draw_controls(batches, min(len(batches), largest), f"floor:{name}")
            cells = held_out.line.expression(drawn)
            pseudo = Group.from_cells(cells)
            rest = held_out.controls.all_controls.without(pseudo)
            remaining = np.setdiff1d(self.controls.rows_for(batches), drawn)
            if not len(remaining):
                remaining = np.setdiff1d(held_out.all_control_rows, drawn)
            prediction = _CellSet(
                cells,
                pseudo,
                held_out.controls.between(pseudo.mean, rest.mean),
                self._moved(held_out.controls, rest.mean),
                de_row(name, cells, SortedControl.from_cells(held_out.line.expression(remaining))),
            )
            table.add(
                name, self._real_cells(name), prediction, self.real[name].control, pseudo.noise
            )
        return table.scored()

    def mean_response(self) -> pd.DataFrame:
        """Score the mean response as prediction for all perturbations.

        Cells are drawn without replacement: a cell drawn twice would have distance 0 to itself.
        """
        held_out, table, delta = self.held_out, _Table(self), self.training.values
        if delta is None:
            return table.scored()
        profile = np.maximum(held_out.controls.all_controls.mean + delta, 0.0)
        for name in self._with_cells(2):
            batches = held_out.batches(held_out.rows(name))
            n = min(len(batches), len(held_out.all_control_rows))
            drawn = held_out.draw_controls(batches, n, f"mean response:{name}")
            cells = self._scaled(held_out.line.expression(drawn), profile, f"mean response:{name}")
            test = de_row(name, cells, self.controls.for_batches(batches))
            prediction = _CellSet(
                cells, _moved_group(cells, profile), held_out.controls.delta(profile), delta, test
            )
            table.add(name, self._real_cells(name), prediction, self.real[name].control, 0.0)
        return table.scored()

    def replicates(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Score one half of the real cells as prediction of the other half.

        Returns
        -------
        ceiling
            Scores of the unchanged half.
        interpolated_duplicate
            Scores of that half, interpolated with the mean response.
        """
        held_out = self.held_out
        ceiling, duplicate = _Table(self), _Table(self)
        names = self._with_cells(4) if len(held_out.all_control_rows) >= 4 else []
        halves = held_out.halves(held_out.all_control_rows, "control") if names else ()
        controls = [held_out.sum_controls(half, held_out.controls.known) for half in halves]
        sorted_halves = [BatchControls(held_out, half) for half in halves]
        shifts = [self._moved(half, half.all_controls.mean) for half in controls]
        for name in names:
            batches = held_out.batches(held_out.rows(name))
            rows = held_out.halves(held_out.rows(name), name)
            cell_sets, matched = [], []
            for i, half in enumerate(rows):
                cells = held_out.line.expression(half)
                group, test = (
                    Group.from_cells(cells),
                    de_row(name, cells, sorted_halves[i].for_batches(batches)),
                )
                cell_sets.append(
                    _CellSet(cells, group, controls[i].delta(group.mean), shifts[i], test)
                )
                matched.append(controls[i].matched(held_out.batches(half)))
            real, pred = cell_sets
            ceiling.add(name, real, pred, matched[0], pred.group.noise)
            if pred.shift is None:
                continue
            # This mean response starts from controls of the condition's batches, as a model does.
            mean = np.maximum(matched[1].mean + pred.shift, 0.0)
            q = benjamini_hochberg(pred.test.test.pvalue)
            mixture = (1 - q) * pred.group.mean + q * mean
            cells = self._scaled(pred.cells, mixture, f"interpolated:{name}")
            test = de_row(name, cells, sorted_halves[1].for_batches(batches))
            delta = controls[1].delta(mixture)
            prediction = _CellSet(cells, _moved_group(cells, mixture), delta, pred.shift, test)
            # Noise is not subtracted: as for a model, the mean of the cells is the prediction.
            duplicate.add(name, real, prediction, matched[0], 0.0)
        return ceiling.scored(), duplicate.scored()

    @cached_property
    def _expressed(self) -> np.ndarray:
        return expressed_in(self.held_out.control_cells)

    def _scaled(self, cells: np.ndarray, mean: np.ndarray, key: str) -> np.ndarray:
        rng = generator("scaled", self.held_out.seed, self.held_out.line.name, key)
        most = largest_log1p(self.held_out.target_sum)
        return move(cells, mean, self._expressed, rng, most)

    def _with_cells(self, least: int) -> list[str]:
        """Return the perturbations with at least `least` real cells."""
        return [name for name, real in self.real.items() if real.cells.n >= least]

    def _real_cells(self, name: str) -> _CellSet:
        """Return all real cells of a condition."""
        real = self.real[name]
        shift, test = self.training.values, self.rows[name]
        return _CellSet(self.held_out.cells(name), real.cells, real.delta, shift, test)

    def _moved(self, controls: Controls, mean: np.ndarray) -> np.ndarray | None:
        """Return the training reference [G] of a delta that subtracts the control profile `mean`.

        A training delta of other lines does not contain controls of this line. It is returned
        unchanged, because no control cancels.
        """
        delta = self.training.values
        if delta is None or self.training.taken_from != OWN_LINE:
            return delta
        return controls.project(delta + self.held_out.controls.all_controls.mean - mean)


class _Table:
    """Conditions collected for `conditions.score`; their cells are not kept."""

    def __init__(self, maker: ReferencePredictions) -> None:
        self._maker = maker
        self._conditions: list[Condition] = []
        self._tests: tuple[list[DERow], list[DERow]] = ([], [])

    def add(
        self, name: str, real: _CellSet, pred: _CellSet, control: Profile, noise: float
    ) -> None:
        """Add a condition.

        Parameters
        ----------
        name
            Perturbation.
        real, pred
            Its real and predicted cells.
        control
            Control profile of its batches.
        noise
            Sampling noise that the predicted mean is known to have.
        """
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
        for tests, cells in zip(self._tests, (real, pred), strict=True):
            tests.append(cells.test)

    def scored(self) -> pd.DataFrame:
        """Return the scores of all conditions that were added."""
        held_out = self._maker.held_out
        real, pred = (table_of(rows, held_out.genes) for rows in self._tests)
        return score(self._conditions, real, pred, held_out.excluded)
