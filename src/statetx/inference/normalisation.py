"""How the values of somebody's file become those that a model was trained on, or why they cannot.

The rule: values whose target sum is known exactly are converted; those that need no conversion stay as
they are, to the last digit. Where it is not known, sums that the model's target sum does not allow, or
that its training cells do not have, are refused with the evidence; otherwise the values are taken as
they are and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from statetx.core.errors import DataError
from statetx.data.h5ad.numbers import is_integral, is_whole
from statetx.inference.scale_evidence import CONSTANT, Held, held, row_sums
from statetx.inference.write_predictions import declared
from statetx.models.model_dir import LoadedModel
from statetx.shared.expression import TARGET_SUM

ROUNDED = 0.01
"""By how much sums may miss the target sum: log values of two decimals miss it by 0.3 %."""

SHARE_MARGIN = 1.1
"""By how much the median share of a file may exceed that of 99 % of the training cells."""
UNKNOWN_MARGIN = 1.5
"""By how much it may fall below that of 99 % of them, where the target sum is not known."""


@dataclass(frozen=True)
class Trained:
    """What the expression that a model was trained on is like.

    Attributes
    ----------
    target_sum
        Its target sum: as the model's own cells show it exactly, or else as ``model.json`` states it.
    source
        Where that comes from.
    shares
        Least and largest share of the target sum that the model's genes have in its training cells (1 %
        and 99 % quantile); None: not known.
    limit
        Sum before the logarithm that no cell exceeds: the target sum; none where training cells were not
        normalised to one.
    """

    target_sum: float
    source: str
    shares: tuple[float, float] | None
    limit: float


def trained(model: LoadedModel) -> Trained:
    """Return what is known of the expression that `model` was trained on."""
    stated = declared(model, "scale", "target_sum")
    target_sum = float(stated) if stated else TARGET_SUM
    source = "model.json" if stated else "assumed, since model.json does not state it"
    if model.takes_embedding or "imported" in model.meta:  # its golden cells are made up
        return Trained(target_sum, source, None, target_sum)
    with np.load(model.path / "golden.npz", allow_pickle=False) as file:
        cells = sparse.csr_matrix(file["control"])
    seen = held(cells, whole=False)
    shown = seen.target_sum if seen.log == "ln(1 + x)" else None
    if shown is not None and abs(shown - target_sum) > CONSTANT * target_sum:
        target_sum, source = shown, "the model's own control cells"
    quantiles = declared(model, "controls", "share")
    if quantiles:
        scale = float(stated or TARGET_SUM) / target_sum  # they are shares of the stated sum
        least, _, largest, most = (scale * share for share in quantiles)
        all_genes = declared(model, "controls", "genes") == len(model.genes)
        common = most <= 1 + CONSTANT and (least >= 1 - CONSTANT or not all_genes)
        return Trained(target_sum, source, (least, largest), target_sum if common else np.inf)
    found = row_sums(cells.expm1()) / target_sum
    least, most = float(found.min()) / 1.25, float(found.max())
    limit = target_sum if most <= 1 + CONSTANT else np.inf
    return Trained(target_sum, source, (least, min(max(1.0, most), 1.25 * most)), limit)


@dataclass(frozen=True)
class Normalisation:
    """How values become ln(1 + target_sum * count / total).

    Attributes
    ----------
    held
        What they are.
    target_sum
        The model's.
    factor
        By which values before the logarithm are multiplied; None: each cell by target_sum / total.
    name, where
        Matrix and file, for messages.
    done
        What is done, for the report.
    limit
        Sum before the logarithm that no cell may exceed, where `factor` is not None.
    """

    held: Held
    target_sum: float
    factor: float | None
    name: str
    where: object
    done: str
    limit: float = np.inf

    @property
    def by_totals(self) -> bool:
        """Whether each cell is divided by its total counts, which may stand in an obs column."""
        return self.factor is None and self.held.target_sum is None and not self.held.parts

    def apply(
        self, values: sparse.csr_matrix, totals: np.ndarray | None, rows: np.ndarray
    ) -> sparse.csr_matrix:
        """Convert all genes of some cells.

        Parameters
        ----------
        values
            As stored, [n, genes].
        totals
            Total counts of the cells; None: row sums.
        rows
            Their rows in the file, for messages.

        Raises
        ------
        DataError
            These cells are not like those that the conversion was chosen by.
        """
        linear = self.held.linear(values)
        sums = row_sums(linear)
        self._refuse_others(values, sums, rows)
        if self.factor == 1.0 and self.held.log == "ln(1 + x)":
            return values
        if self.factor is None:
            own = sums if totals is None or not self.by_totals else totals
            factors = self.target_sum / np.maximum(own, 1e-12)
        else:
            factors = np.full(len(sums), self.factor)
        linear.data = np.log1p(linear.data * np.repeat(factors, np.diff(linear.indptr)))
        return linear

    def _refuse_others(self, values: sparse.csr_matrix, sums: np.ndarray, rows: np.ndarray) -> None:
        whole_numbers = self.held.log is None and self.held.evidence.startswith("whole")
        if whole_numbers and not is_integral(values.data):
            raise DataError(
                f"{self.name!r} holds whole numbers in some cells and decimals in others",
                where=self.where,
                fix="give one kind of values in all cells",
            )
        if self.factor is not None and (sums > (1 + CONSTANT) * self.limit).any():
            at = int(np.argmax(sums))
            raise DataError(
                f"{self.name!r} holds cells of different target sums: the cell in row {rows[at]} sums to "
                f"{sums[at]:,.6g} before the logarithm, more than {self.limit:,.6g}",
                where=self.where,
                fix="normalise all cells to one target sum, or give raw counts",
            )


def normalisation(
    values: sparse.csr_matrix,
    place: np.ndarray,
    model: LoadedModel,
    known: Trained,
    totals: np.ndarray | None,
    name: str,
    where: object,
) -> Normalisation:
    """Choose the conversion by some cells of a file.

    Parameters
    ----------
    values
        All genes of the cells, as stored.
    place
        Columns of the model's genes.
    model, known
        The model, and what it was trained on.
    totals
        Total counts of the cells; None: row sums.
    name, where
        Matrix and file.

    Raises
    ------
    DataError
        The values cannot be brought to the model's target sum.
    """
    whole = name == "X"
    seen = held(values, whole)
    linear = seen.linear(values)
    mine = row_sums(linear[:, place])
    sums = row_sums(linear)
    filled = sums > 0
    if seen.mixed:
        raise DataError(
            f"{name!r} holds cells of different target sums: {seen.evidence}",
            where=where,
            fix="normalise all cells to one target sum, or give the raw counts of all genes in X",
        )
    stored = values.data.astype(np.float64)
    if not is_integral(stored) and is_whole(stored * stored):
        raise DataError(
            f"{name!r} holds square roots of counts",
            where=where,
            fix="give the counts (adata.X.power(2)), or log1p values",
        )
    counted = seen.log is None or seen.factor is not None or seen.parts
    if counted and not whole:
        raise DataError(
            f"{name!r} is declared as log1p but looks like counts: {seen.evidence}",
            where=where,
            fix="store ln(1 + target_sum * count / total) there, with totals over all genes; or leave the matrix "
            "out of a file with the counts of all genes in X",
        )
    goal = f"the model's target sum {known.target_sum:,.7g}"
    if counted:
        by, all_counts = f"row sums over {values.shape[1]:,} genes", sums
        if n_genes := declared(model, "controls", "genes"):
            by += f" (in training over {n_genes:,})"
        if totals is not None and seen.target_sum is None and not seen.parts:
            by, all_counts = "the obs column of total counts", totals
        _refuse_few_genes(
            mine[filled] / all_counts[filled], values.shape[1], place, model, known, where
        )
        return Normalisation(
            seen, known.target_sum, None, name, where, f"brought to {goal} by {by}"
        )
    if seen.target_sum is None or not np.isfinite(known.limit):
        _refuse_implausible(seen, sums[filled], mine[filled], model, known, name, where)
        done = f"taken as values of {goal}: their own is not certain"
        if not np.isfinite(known.limit):
            done = "taken as they are: the model's training cells were not normalised to one target sum"
        if seen.log != "ln(1 + x)":
            done += "; brought to the natural logarithm"
        return Normalisation(seen, known.target_sum, 1.0, name, where, done, known.limit)
    _refuse_few_genes(mine[filled] / seen.target_sum, values.shape[1], place, model, known, where)
    factor = known.target_sum / seen.target_sum
    if abs(factor - 1.0) <= CONSTANT:
        done = (
            f"{goal}: taken as they are"
            if seen.log == "ln(1 + x)"
            else "brought to the natural logarithm"
        )
        return Normalisation(seen, known.target_sum, 1.0, name, where, done, seen.target_sum)
    done = f"brought from target sum {seen.target_sum:,.7g} to {goal}"
    return Normalisation(seen, known.target_sum, factor, name, where, done, seen.target_sum)


def _refuse_few_genes(
    shares: np.ndarray,
    n_genes: int,
    place: np.ndarray,
    model: LoadedModel,
    known: Trained,
    where: object,
) -> None:
    """Refuse totals over too few genes: the model's genes have a larger share of them than in training."""
    if not shares.size:
        return
    median = float(np.median(shares))
    if known.shares is None:
        if n_genes > len(place) or median < 1 - CONSTANT or model.embed_key is None:
            return
        usual = "the model works in chosen genes, which have less"
    elif median <= SHARE_MARGIN * known.shares[1]:
        return
    else:
        usual = f"in training cells {known.shares[0]:.0%} to {known.shares[1]:.0%}"
    raise DataError(
        f"the total of a cell does not seem to cover all measured genes: the model's {len(place):,} genes have "
        f"{median:.0%} of it; {usual}",
        where=where,
        fix="give the counts of all measured genes in X; or counts, with the obs column that holds the total "
        "counts of each cell over all genes: --total-counts-col",
    )


def _refuse_implausible(
    seen: Held,
    sums: np.ndarray,
    mine: np.ndarray,
    model: LoadedModel,
    known: Trained,
    name: str,
    where: object,
) -> None:
    """Refuse log values of an unknown target sum that cannot, or hardly can, be those of the model."""
    fix = (
        f"give ln(1 + {known.target_sum:g} * count / total), with totals over all genes; or raw counts of all "
        "genes in X"
    )
    if not sums.size:
        return
    most, target = float(sums.max()), known.target_sum
    if bool((np.abs(sums - target) <= ROUNDED * target).all()):
        return  # values of few decimals, which miss the sum by rounding
    if most > (1 + CONSTANT) * known.limit:
        raise DataError(
            f"{name!r} holds log values of another target sum than the model's {target:,.7g}: {seen.evidence}, "
            "which no cell may exceed",
            where=where,
            fix=fix,
        )
    equal = bool(np.ptp(sums) <= CONSTANT * target and abs(most - target) <= CONSTANT * target)
    if equal:
        return
    if name == "X" and model.embed_key is None and declared(model, "scale", "input") == "counts":
        raise DataError(
            f"{name!r} looks log-transformed, and its target sum is not certain: {seen.evidence}; the model was "
            "trained on counts",
            where=where,
            fix=fix,
        )
    if known.shares is None:
        return
    least, largest = known.shares[0] / UNKNOWN_MARGIN, known.shares[1] * SHARE_MARGIN
    median = float(np.median(mine)) / target
    if not least <= median <= largest:
        raise DataError(
            f"{name!r} seems to hold log values of another target sum than the model's {target:,.7g}: before the "
            f"logarithm the model's genes sum to {median * target:,.4g}; in training cells it is "
            f"{known.shares[0] * target:,.4g} to {known.shares[1] * target:,.4g}",
            where=where,
            fix=fix,
        )


def report(how: Normalisation, known: Trained) -> dict[str, Any]:
    """Return what goes into ``uns`` of the output."""
    return {
        "matrix": how.name,
        "values": how.held.log or "counts",
        "target_sum": how.held.target_sum,
        "evidence": how.held.evidence,
        "done": how.done,
        "target_sum_of_model": known.target_sum,
        "target_sum_of_model_from": known.source,
    }
