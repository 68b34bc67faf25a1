"""Convert the values of a user's file to the normalisation that a model was trained on.

Values with an exactly known target sum are converted. Values that already have the normalisation of
the model stay unchanged, to the last digit. If the target sum is unknown, values are refused with
the evidence if the model's target sum does not allow their sums, or if training cells do not have
such sums. Otherwise the values are used unchanged, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from statetx.core.errors import DataError
from statetx.data.h5ad.numbers import is_integral, is_whole
from statetx.inference.recognise_normalisation import CONSTANT, Recognised, recognise, row_sums
from statetx.inference.write_predictions import declared
from statetx.models.model_dir import LoadedModel
from statetx.shared.expression import TARGET_SUM

ROUNDED = 0.01
"""Sums may differ from the target sum by this share: log values of two decimals differ by 0.3 %."""

SHARE_MARGIN = 1.1
"""Factor by which the median share of a file may exceed that of 99 % of the training cells."""
UNKNOWN_MARGIN = 1.5
"""Factor by which it may fall below that of 99 % of them if the target sum is unknown."""


@dataclass(frozen=True)
class Trained:
    """Normalisation of the expression that a model was trained on.

    Attributes
    ----------
    target_sum
        Target sum that the control cells of the model show exactly, else that of ``model.json``.
    source
        Where the target sum comes from.
    shares
        Smallest and largest share of the target sum that the model's genes have in its training
        cells (1 % and 99 % quantile); None: unknown.
    limit
        Sum before the logarithm that no cell exceeds: the target sum. Infinite if training cells
        were not normalised to one target sum.
    """

    target_sum: float
    source: str
    shares: tuple[float, float] | None
    limit: float


def trained(model: LoadedModel) -> Trained:
    """Return the normalisation of the expression that a model was trained on.

    Parameters
    ----------
    model
        The model.
    """
    stated = declared(model, "scale", "target_sum")
    target_sum = float(stated) if stated else TARGET_SUM
    source = "model.json" if stated else "assumed, since model.json does not state it"
    if model.takes_embedding or "imported" in model.meta:  # golden cells are embeddings, or random
        return Trained(target_sum, source, None, target_sum)
    with np.load(model.path / "golden.npz", allow_pickle=False) as file:
        cells = sparse.csr_matrix(file["control"])
    recognised = recognise(cells, whole=False)
    shown_sum = recognised.target_sum if recognised.log == "ln(1 + x)" else None
    if shown_sum is not None and abs(shown_sum - target_sum) > CONSTANT * target_sum:
        target_sum, source = shown_sum, "the model's own control cells"
    quantiles = declared(model, "controls", "share")
    if quantiles:
        scale = float(stated or TARGET_SUM) / target_sum  # quantiles are shares of the stated sum
        least, _, largest, most = (scale * share for share in quantiles)
        all_genes = declared(model, "controls", "genes") == len(model.genes)
        common = most <= 1 + CONSTANT and (least >= 1 - CONSTANT or not all_genes)
        return Trained(target_sum, source, (least, largest), target_sum if common else np.inf)
    shares = row_sums(cells.expm1()) / target_sum
    least, most = float(shares.min()) / 1.25, float(shares.max())
    limit = target_sum if most <= 1 + CONSTANT else np.inf
    return Trained(target_sum, source, (least, min(max(1.0, most), 1.25 * most)), limit)


@dataclass(frozen=True)
class Normalisation:
    """Conversion of the values of a file to ln(1 + target_sum * count / total).

    Attributes
    ----------
    held
        Normalisation of the file.
    target_sum
        Target sum of the model.
    factor
        Factor of all values before the logarithm; None: target_sum / total of each cell.
    name, where
        Matrix and file, for messages.
    done
        Description of the conversion, for the report.
    limit
        Sum before the logarithm that no cell may exceed, if `factor` is not None.
    """

    held: Recognised
    target_sum: float
    factor: float | None
    name: str
    where: object
    done: str
    limit: float = np.inf

    @property
    def by_totals(self) -> bool:
        """Whether each cell is divided by its total counts, which may be in an obs column."""
        return self.factor is None and self.held.target_sum is None and not self.held.parts

    def apply(
        self, values: sparse.csr_matrix, totals: np.ndarray | None, rows: np.ndarray
    ) -> sparse.csr_matrix:
        """Convert all genes of cells.

        Parameters
        ----------
        values
            [n, genes], as stored.
        totals
            [n], total counts of the cells; None: row sums.
        rows
            [n], rows of the cells in the file, for messages.

        Raises
        ------
        DataError
            The values differ in kind from those of the cells by which the conversion was chosen.
        """
        linear = self.held.linear(values)
        sums = row_sums(linear)
        self._refuse_others(values, sums, rows)
        if self.factor == 1.0 and self.held.log == "ln(1 + x)":
            return values
        if self.factor is None:
            divisors = sums if totals is None or not self.by_totals else totals
            factors = self.target_sum / np.maximum(divisors, 1e-12)
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
                fix="store one kind of values in all cells",
            )
        if self.factor is not None and (sums > (1 + CONSTANT) * self.limit).any():
            at = int(np.argmax(sums))
            raise DataError(
                f"{self.name!r} holds cells of different target sums: the cell in row {rows[at]} "
                f"sums to {sums[at]:,.6g} before the logarithm, more than {self.limit:,.6g}",
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
    """Choose the conversion of a file from some of its cells.

    Parameters
    ----------
    values
        [n, genes], all genes of the cells, as stored.
    place
        int64 [G], columns of the model's genes.
    model, known
        The model, and the normalisation of its training data.
    totals
        [n], total counts of the cells; None: row sums.
    name, where
        Matrix and file, for messages.

    Raises
    ------
    DataError
        The values cannot be converted to the model's target sum.
    """
    whole = name == "X"
    recognised = recognise(values, whole)
    linear = recognised.linear(values)
    model_sums = row_sums(linear[:, place])
    sums = row_sums(linear)
    non_empty = sums > 0
    if recognised.mixed:
        raise DataError(
            f"{name!r} holds cells of different target sums: {recognised.evidence}",
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
    counted = recognised.log is None or recognised.factor is not None or recognised.parts
    if counted and not whole:
        raise DataError(
            f"{name!r} is declared as log1p but looks like counts: {recognised.evidence}",
            where=where,
            fix="store ln(1 + target_sum * count / total) in it, with totals over all genes; or "
            "remove the matrix from a file with the counts of all genes in X",
        )
    goal = f"the model's target sum {known.target_sum:,.7g}"
    if counted:
        by, all_counts = f"row sums over {values.shape[1]:,} genes", sums
        if n_genes := declared(model, "controls", "genes"):
            by += f" (in training over {n_genes:,})"
        if totals is not None and recognised.target_sum is None and not recognised.parts:
            by, all_counts = "the obs column of total counts", totals
        _refuse_few_genes(
            model_sums[non_empty] / all_counts[non_empty],
            values.shape[1],
            place,
            model,
            known,
            where,
        )
        return Normalisation(
            recognised, known.target_sum, None, name, where, f"brought to {goal} by {by}"
        )
    if recognised.target_sum is None or not np.isfinite(known.limit):
        _refuse_implausible(
            recognised, sums[non_empty], model_sums[non_empty], model, known, name, where
        )
        done = f"taken as values of {goal}: their own is not certain"
        if not np.isfinite(known.limit):
            done = (
                "taken as they are: the model's training cells were not normalised to one "
                "target sum"
            )
        if recognised.log != "ln(1 + x)":
            done += "; brought to the natural logarithm"
        return Normalisation(recognised, known.target_sum, 1.0, name, where, done, known.limit)
    _refuse_few_genes(
        model_sums[non_empty] / recognised.target_sum, values.shape[1], place, model, known, where
    )
    factor = known.target_sum / recognised.target_sum
    if abs(factor - 1.0) <= CONSTANT:
        done = (
            f"{goal}: taken as they are"
            if recognised.log == "ln(1 + x)"
            else "brought to the natural logarithm"
        )
        return Normalisation(
            recognised, known.target_sum, 1.0, name, where, done, recognised.target_sum
        )
    done = f"brought from target sum {recognised.target_sum:,.7g} to {goal}"
    return Normalisation(
        recognised, known.target_sum, factor, name, where, done, recognised.target_sum
    )


def _refuse_few_genes(
    shares: np.ndarray,
    n_genes: int,
    place: np.ndarray,
    model: LoadedModel,
    known: Trained,
    where: object,
) -> None:
    """Refuse totals over too few genes, in which the model's genes have too large a share."""
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
        "the total of a cell does not seem to cover all measured genes: the model's "
        f"{len(place):,} genes have {median:.0%} of it; {usual}",
        where=where,
        fix="give the counts of all measured genes in X; or name the obs column with the total "
        "counts of each cell over all genes with --total-counts-col",
    )


def _refuse_implausible(
    recognised: Recognised,
    sums: np.ndarray,
    model_sums: np.ndarray,
    model: LoadedModel,
    known: Trained,
    name: str,
    where: object,
) -> None:
    """Refuse log values with an unknown target sum that is unlikely to be that of the model."""
    fix = (
        f"give ln(1 + {known.target_sum:g} * count / total), with totals over all genes; or raw "
        "counts of all genes in X"
    )
    if not sums.size:
        return
    most, target = float(sums.max()), known.target_sum
    if bool((np.abs(sums - target) <= ROUNDED * target).all()):
        return  # values with few decimals, whose sums differ by rounding only
    if most > (1 + CONSTANT) * known.limit:
        raise DataError(
            f"{name!r} holds log values of another target sum than the model's {target:,.7g}, "
            f"which no cell may exceed: {recognised.evidence}",
            where=where,
            fix=fix,
        )
    equal = bool(np.ptp(sums) <= CONSTANT * target and abs(most - target) <= CONSTANT * target)
    if equal:
        return
    if name == "X" and model.embed_key is None and declared(model, "scale", "input") == "counts":
        raise DataError(
            f"{name!r} looks log-transformed, and its target sum is not certain: "
            f"{recognised.evidence}; the model was trained on counts",
            where=where,
            fix=fix,
        )
    if known.shares is None:
        return
    least, largest = known.shares[0] / UNKNOWN_MARGIN, known.shares[1] * SHARE_MARGIN
    median = float(np.median(model_sums)) / target
    if not least <= median <= largest:
        raise DataError(
            f"{name!r} seems to hold log values of another target sum than the model's "
            f"{target:,.7g}: before the logarithm the model's genes sum to {median * target:,.4g}, "
            f"in training cells they sum to {known.shares[0] * target:,.4g} to "
            f"{known.shares[1] * target:,.4g}",
            where=where,
            fix=fix,
        )


def report(how: Normalisation, known: Trained) -> dict[str, Any]:
    """Return the entry for ``uns`` of the output.

    Parameters
    ----------
    how
        The conversion.
    known
        Normalisation of the model's training data.
    """
    return {
        "matrix": how.name,
        "values": how.held.log or "counts",
        "target_sum": how.held.target_sum,
        "evidence": how.held.evidence,
        "done": how.done,
        "target_sum_of_model": known.target_sum,
        "target_sum_of_model_from": known.source,
    }
