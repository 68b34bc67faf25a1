"""Score predictions of a held-out line: columns of cell-eval, and our scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from statetx.config import Evaluation
from statetx.core.errors import ResultsError
from statetx.data.store.plan import read_plan
from statetx.data.store.store import open_store
from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.cell_eval.tables import write_aggregate, write_results
from statetx.evaluation.held_out.batch_controls import BatchControls
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.held_out.predictions import Predictions
from statetx.evaluation.held_out.reference_files import (
    Reference,
    read_reference,
    reference_note,
    write_scores,
)
from statetx.evaluation.numerics.csr_cells import Cells, compact
from statetx.evaluation.numerics.sorted_cells import SortedCells, mean_of
from statetx.evaluation.scores.columns import FALLBACK, IMPOSSIBLE
from statetx.evaluation.scores.conditions import Condition, score
from statetx.evaluation.scores.covariance import covariance_agreement
from statetx.evaluation.scores.differential_expression import (
    DERow,
    DETable,
    de_row,
    table_of,
    write_table,
)
from statetx.evaluation.scores.energy_and_mmd import EnergyFrom, all_distances
from statetx.evaluation.scores.pseudobulk import Group


def evaluate_run(
    store_dir: str | Path,
    plan_path: str | Path,
    line: str,
    predictions: str | Path,
    reference_dir: str | Path,
    settings: Evaluation,
    out_dir: str | Path,
    genes: str | Path | None = None,
) -> None:
    """Score one line of one run, condition by condition, and write the results.

    - ``results.csv`` and ``agg_results.csv``: columns of cell-eval. Predictions do not contain
      controls, so real and predicted cells are compared with all real controls of the line.
    - ``scores.csv``: our scores.
    - ``de.parquet``: predicted differential expression against the real controls of the batches of
      the real cells.

    Parameters
    ----------
    store_dir, plan_path
        Store and plan.
    line
        A line with test conditions.
    predictions
        h5ad file of predicted cells.
    reference_dir
        Directory that `reference` wrote for this line.
    settings
        ``max_cells`` and ``seed``, the same as for the reference, and ``profile`` are used.
    out_dir
        Directory for the files.
    genes
        File of the genes that were chosen on the split; None: all genes.

    Raises
    ------
    ResultsError
        Predictions or reference do not match store and plan.
    """
    out = Path(out_dir)
    held_out = HeldOutLine.from_plan(
        open_store(store_dir, genes), read_plan(plan_path), line, settings
    )
    predicted, reference = Predictions(predictions), read_reference(reference_dir)
    predicted.check(held_out)
    _check_reference(reference, held_out)
    chosen = cell_eval.columns(settings.profile)
    cell_eval.say_absent(settings.profile)
    scoring = _LineScoring(
        held_out,
        predicted,
        reference,
        needs_de=cell_eval.needs_de(chosen),
        needs_energy=cell_eval.needs_energy(chosen),
    )
    for name in tqdm(held_out.perturbations, desc=f"score {line}", disable=None, leave=False):
        scoring.add(name)
    pred_de = table_of(scoring.tests, held_out.genes)
    columns = cell_eval.evaluate(scoring.panel(pred_de), chosen)
    real_de = reference.de.select(reference.scored)
    ours = score(scoring.conditions, real_de, pred_de.select(reference.scored), held_out.excluded)
    write_table(pred_de, out / "de.parquet")
    write_results(held_out.perturbations, columns, out / "results.csv")
    write_aggregate(columns, out / "agg_results.csv")
    write_scores(held_out, reference.real, ours, "not scored", out / "scores.csv")


class _LineScoring:
    """Summaries from which a line is scored, collected condition by condition; no cell is kept.

    Attributes
    ----------
    conditions
        Conditions with at least two predicted cells, for our scores.
    tests
        Predicted differential expression, against the controls of the batches of each condition.
    """

    def __init__(
        self,
        held_out: HeldOutLine,
        predicted: Predictions,
        reference: Reference,
        *,
        needs_de: bool,
        needs_energy: bool,
    ) -> None:
        self._held_out, self._predicted, self._reference = held_out, predicted, reference
        self._needs_energy = needs_energy
        self._controls = BatchControls(held_out)
        self._batches = {
            name: held_out.batches(held_out.rows(name)) for name in held_out.perturbations
        }
        # cell-eval tests against all controls of the line. Its tests are the same as ours only if
        # all controls are used for all conditions.
        self._needs_line_tests = needs_de and any(
            map(self._controls.batches, self._batches.values())
        )
        self._centre = held_out.controls.all_controls.mean
        self._energy_from = EnergyFrom(compact(held_out.control_cells), self._centre)
        self.conditions: list[Condition] = []
        self.tests: list[DERow] = []
        self._line_tests: dict[str, list[DERow]] = {"real": [], "pred": []}
        self._means: list[np.ndarray] = []
        self._energies: list[float] = []

    def add(self, name: str) -> None:
        """Add one condition.

        Parameters
        ----------
        name
            Perturbation.
        """
        predicted = compact(self._predicted.cells(name))
        real = compact(self._held_out.cells(name))
        group = Group.from_cells(predicted)
        self._means.append(group.mean)
        self._test(name, real, SortedCells.from_cells(predicted))
        compared = predicted
        if group.n >= 2:
            real_group = self._reference.real[name].cells
            distances, (compared, _) = all_distances(
                predicted, real, self._reference.gammas, self._centre, (group, real_group)
            )
            covariance = covariance_agreement(predicted, real, self._reference.fold_change(name))
            self.conditions.append(
                self._condition(name, group, distances, covariance, self._notes(name, predicted))
            )
        if self._needs_energy:
            self._energies.append(self._energy_from(compared))

    def _test(self, name: str, real: Cells, predicted: SortedCells) -> None:
        controls = self._controls.for_batches(self._batches[name])
        self.tests.append(de_row(name, predicted, controls))
        if self._needs_line_tests:
            controls = self._controls.all_controls
            self._line_tests["real"].append(de_row(name, real, controls))
            self._line_tests["pred"].append(de_row(name, predicted, controls))

    def _notes(self, name: str, predicted: Cells) -> dict[str, str]:
        notes = dict(reference_note(self._reference.training))
        if impossible := self._predicted.too_high(predicted, self._held_out.target_sum):
            notes[IMPOSSIBLE] = impossible
        if share := self._predicted.fallback(name):
            notes[FALLBACK] = f"the model fell back on something simpler for {share:.0%} of cells"
        return notes

    def _condition(
        self,
        name: str,
        predicted: Group,
        distances: Mapping[str, float],
        covariance: float | None,
        notes: Mapping[str, str],
    ) -> Condition:
        real, training = self._reference.real[name], self._reference.training.values
        drug, dose = self._held_out.identity(name)
        return Condition(
            perturbation=name,
            real=real.cells,
            pred=predicted,
            real_delta=real.delta,
            pred_delta=self._held_out.controls.delta(predicted.mean),
            control=real.control,
            references=None if training is None else (training, training),
            distances=distances,
            covariance=covariance,
            drug=drug,
            dose=dose,
            notes=notes,
        )

    def panel(self, pred_de: DETable) -> cell_eval.Panel:
        """Return profiles and tests as cell-eval compares them.

        Predictions do not contain controls, so the real controls are used for both.

        Parameters
        ----------
        pred_de
            Predicted differential expression against the controls of the batches.
        """
        real, genes = self._reference.real.values(), self._held_out.genes
        control, real_de = mean_of(self._held_out.control_cells), self._reference.de
        if self._needs_line_tests:
            real_de, pred_de = (table_of(rows, genes) for rows in self._line_tests.values())
        return cell_eval.Panel(
            labels=self._held_out.perturbations,
            genes=genes,
            real=np.array([condition.cells.mean for condition in real]),
            pred=np.array(self._means),
            real_control=control,
            pred_control=control,
            real_de=real_de,
            pred_de=pred_de,
            real_energy=np.array([condition.own_energy for condition in real]),
            pred_energy=np.array(self._energies) if self._needs_energy else None,
        )


def _check_reference(reference: Reference, held_out: HeldOutLine) -> None:
    names = list(reference.real)
    if names != held_out.perturbations:
        differ = sorted(set(names) ^ set(held_out.perturbations))
        raise ResultsError(
            f"the reference belongs to another plan: only one of the two contains {differ[0]!r}",
            where=reference.directory,
            fix="run the reference stage again",
        )
    if (reference.max_cells, reference.seed) != (held_out.max_cells, held_out.seed):
        raise ResultsError(
            f"the reference was made with max_cells {reference.max_cells} and seed "
            f"{reference.seed}, the settings say {held_out.max_cells} and {held_out.seed}: "
            "different real cells would be scored",
            where=reference.directory,
            fix="run the reference stage again with these settings of `evaluation`",
        )
