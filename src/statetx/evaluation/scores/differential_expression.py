"""Differential expression of perturbations against control cells.

The test is the two-sided Mann-Whitney U test, asymptotic, corrected for ties and continuity, as
``scipy.stats.mannwhitneyu(method="asymptotic")`` computes it. P-values are adjusted within each
perturbation (Benjamini-Hochberg). Fold changes compare geometric means. All of this is the "ref"
mode of pdex, which cell-eval uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from statetx.core.errors import ResultsError
from statetx.core.records import verify
from statetx.core.writes import whole
from statetx.evaluation.numerics.csr_cells import Cells
from statetx.evaluation.numerics.rank_sum import RankSum, SortedControl
from statetx.evaluation.numerics.sorted_cells import SortedCells

ALPHA = np.float32(0.05)
"""A gene is significant if its fdr is below this value, both in float32 as in cell-eval."""


def benjamini_hochberg(pvalues: np.ndarray) -> np.ndarray:
    """Adjust p-values over the last axis (Benjamini & Hochberg 1995).

    Parameters
    ----------
    pvalues
        [..., G].
    """
    p = np.asarray(pvalues, dtype=np.float64)
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, axis=-1) * (m / np.arange(1, m + 1))
    running = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    out = np.empty_like(p)
    np.put_along_axis(out, order, np.clip(running, 0.0, 1.0), axis=-1)
    return out


COLUMNS = (
    "target",
    "feature",
    "target_mean",
    "ref_mean",
    "target_membership",
    "ref_membership",
    "log2_fold_change",
    "percent_change",
    "p_value",
    "statistic",
    "fdr",
)


@dataclass(frozen=True)
class DETable:
    """Differential expression of P perturbations in G genes.

    Attributes
    ----------
    labels
        The P perturbations.
    genes
        The G genes.
    target_mean, ref_mean
        float64 [P, G], geometric means expm1(mean(log1p value)).
    n_target, n_ref
        int64 [P], numbers of perturbed and of control cells.
    log2_fold_change
        float64 [P, G], log2(target_mean / ref_mean); infinite if one mean is 0, and 0 if both are.
    percent_change
        float64 [P, G], target_mean / ref_mean - 1; 0 if both means are 0.
    statistic, p_value, fdr
        float64 [P, G], of the rank-sum test; fdr within each perturbation.
    """

    labels: list[str]
    genes: list[str]
    target_mean: np.ndarray
    ref_mean: np.ndarray
    n_target: np.ndarray
    n_ref: np.ndarray
    log2_fold_change: np.ndarray
    percent_change: np.ndarray
    p_value: np.ndarray
    statistic: np.ndarray
    fdr: np.ndarray

    @property
    def significant(self) -> np.ndarray:
        """Whether fdr < 0.05 in float32: bool [P, G]."""
        return self.fdr.astype(np.float32) < ALPHA

    def select(self, labels: Sequence[str]) -> DETable:
        """Return the table of some perturbations.

        Parameters
        ----------
        labels
            The perturbations, in the order of the rows of the result.

        Raises
        ------
        ResultsError
            A perturbation is not in the table.
        """
        position = {label: i for i, label in enumerate(self.labels)}
        missing = [label for label in labels if label not in position]
        if missing:
            raise ResultsError(f"no differential expression for {missing[0]!r}")
        rows = [position[label] for label in labels]
        names = [name for name in self.__dataclass_fields__ if name not in ("labels", "genes")]
        return DETable(list(labels), self.genes, **{n: getattr(self, n)[rows] for n in names})

    def frame(self) -> pd.DataFrame:
        """Return the table as a data frame: one row per (target, feature), column names of pdex."""
        n_genes = len(self.genes)
        return pd.DataFrame(
            {
                "target": np.repeat(np.array(self.labels, dtype=object), n_genes),
                "feature": np.tile(np.array(self.genes, dtype=object), len(self.labels)),
                "target_mean": self.target_mean.ravel(),
                "ref_mean": self.ref_mean.ravel(),
                "target_membership": np.repeat(self.n_target, n_genes),
                "ref_membership": np.repeat(self.n_ref, n_genes),
                "log2_fold_change": self.log2_fold_change.ravel(),
                "percent_change": self.percent_change.ravel(),
                "p_value": self.p_value.ravel(),
                "statistic": self.statistic.ravel(),
                "fdr": self.fdr.ravel(),
            },
            columns=list(COLUMNS),
        )


def compare(
    targets: Iterable[tuple[str, Cells]], control: SortedControl, genes: Sequence[str]
) -> DETable:
    """Test perturbations against the same control cells.

    Parameters
    ----------
    targets
        (perturbation, cells [n, G] of log1p values); one of them is in memory at a time.
    control
        Sorted control cells, also log1p values.
    genes
        The G gene names.
    """
    rows = [de_row(label, cells, control) for label, cells in targets]
    return table_of(rows, genes)


@dataclass(frozen=True)
class DERow:
    """Differential expression of one perturbation, a row of a `DETable`.

    Attributes
    ----------
    label
        The perturbation.
    n_target, n_ref
        Numbers of perturbed and of control cells.
    target_log_mean, ref_log_mean
        float64 [G], mean log1p value of perturbed and of control cells.
    test
        Rank-sum test per gene.
    """

    label: str
    n_target: int
    n_ref: int
    target_log_mean: np.ndarray
    ref_log_mean: np.ndarray
    test: RankSum

    @property
    def log2_fold_change(self) -> np.ndarray:
        """Log2 fold change of geometric means, float64 [G]; 0 if both means are 0."""
        target, ref = np.expm1(self.target_log_mean), np.expm1(self.ref_log_mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((target == 0) & (ref == 0), 0.0, np.log2(target / ref))


def de_row(
    label: str, cells: Cells | SortedCells, control: SortedControl, single_threaded: bool = False
) -> DERow:
    """Test one perturbation against control cells.

    Parameters
    ----------
    label
        The perturbation.
    cells
        [n, G], log1p values, perhaps already sorted.
    control
        Sorted control cells.
    single_threaded
        As for `SortedControl.test`.
    """
    target = cells if isinstance(cells, SortedCells) else SortedCells.from_cells(cells)
    ref = control.cells
    return DERow(
        label,
        target.n_cells,
        ref.n_cells,
        target.mean,
        ref.mean,
        control.test(target, single_threaded),
    )


def table_of(rows: Sequence[DERow], genes: Sequence[str]) -> DETable:
    """Combine tested perturbations into a table; compute fold changes and adjusted p-values.

    Parameters
    ----------
    rows
        One per perturbation.
    genes
        The G gene names.
    """
    shape = (len(rows), len(genes))
    target = np.expm1(np.array([row.target_log_mean for row in rows]).reshape(shape))
    ref = np.expm1(np.array([row.ref_log_mean for row in rows]).reshape(shape))
    pvalue = np.array([row.test.pvalue for row in rows]).reshape(shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        percent = (target - ref) / ref
    both_zero = (target == 0) & (ref == 0)
    return DETable(
        labels=[row.label for row in rows],
        genes=list(genes),
        target_mean=target,
        ref_mean=ref,
        n_target=np.array([row.n_target for row in rows], dtype=np.int64),
        n_ref=np.array([row.n_ref for row in rows], dtype=np.int64),
        log2_fold_change=np.array([row.log2_fold_change for row in rows]).reshape(shape),
        percent_change=np.where(both_zero, 0.0, percent),
        p_value=pvalue,
        statistic=np.array([row.test.statistic for row in rows]).reshape(shape),
        fdr=benjamini_hochberg(pvalue),
    )


def write_table(table: DETable, path: str | Path) -> None:
    """Write a table as parquet.

    Parameters
    ----------
    table
        The table.
    path
        The file.
    """
    with whole(path) as part:
        table.frame().to_parquet(part, index=False)


def read_table(path: str | Path) -> DETable:
    """Read a table that `write_table` wrote.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ResultsError
        The file is missing, cannot be read, or is not such a table.
    """
    try:
        frame = pd.read_parquet(verify(path))
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"cannot read the differential expression: {error}",
            where=path,
            fix="run the reference stage again",
        ) from error
    labels = list(dict.fromkeys(frame["target"]))
    genes = frame["feature"].tolist()[: len(frame) // max(len(labels), 1)]
    if list(frame.columns) != list(COLUMNS) or len(labels) * len(genes) != len(frame):
        raise ResultsError("this is not a table of differential expression", where=path)
    shape = (len(labels), len(genes))
    values = {name: frame[name].to_numpy().reshape(shape) for name in COLUMNS[2:]}
    members = {
        "n_target": values.pop("target_membership"),
        "n_ref": values.pop("ref_membership"),
    }
    first = {
        name: value[:, 0] if genes else np.zeros(len(labels), int)
        for name, value in members.items()
    }
    return DETable(labels, genes, **first, **values)
