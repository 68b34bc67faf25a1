"""Agreement of differential expression against cell-eval2's numbers and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from cell_eval_fixture import GENES, make
from scipy.stats import mannwhitneyu
from sklearn.metrics import matthews_corrcoef

from statetx.evaluation.scores.de_agreement import Agreement, agreement
from statetx.evaluation.scores.differential_expression import DETable, benjamini_hochberg

LABELS = ["g3", "g7", "pA", "pB", "pC"]
NAN = float("nan")
EXPECTED = {  # cell-eval2 0.16, preset v2, on the fixture's counts
    "fidelity": [1, 0.4285714286, 0.5, 0.875, NAN],
    "reach": [1, 1, 1, 1, NAN],
    "overlap": [0.8181818182, 0.4285714286, 0.5, 0.6666666667, 1],
    "lfc_nmae": [NAN, NAN, 0.3299759645, NAN, NAN],
    "mcc": [0.8634894528, 0.6480740698, 0.6291528696, 0.7336129787, -1],
}


def _table(cells: np.ndarray, labels: np.ndarray, control: np.ndarray) -> DETable:
    """As cell-eval2 makes it: counts per million, arithmetic means, genes that controls express."""
    million = [1e6 * x / x.sum(axis=1, keepdims=True) for x in (cells, control)]
    kept = million[1].mean(axis=0) > 5
    rows = []
    for label in LABELS:
        x = million[0][labels == label][:, kept]
        y = million[1][:, kept]
        fold = np.log2((x.mean(axis=0) + 1e-9) / (y.mean(axis=0) + 1e-9))
        rows.append((fold, mannwhitneyu(np.log1p(x), np.log1p(y), method="asymptotic")[1]))
    fold, p = (np.array([row[i] for row in rows]) for i in (0, 1))
    p = np.where(np.isnan(p), 1.0, p)
    genes = [gene for gene, keep in zip(GENES, kept, strict=True) if keep]
    return _de(fold, p, benjamini_hochberg(p), genes)


def _de(fold: np.ndarray, p: np.ndarray, fdr: np.ndarray, genes: list[str]) -> DETable:
    nothing = np.zeros_like(fold)
    labels = [f"p{i}" for i in range(len(fold))]
    n = np.full(len(fold), 10)
    return DETable(labels, genes, nothing, nothing, n, n, fold, nothing, p, nothing, fdr)


@pytest.fixture(scope="module")
def tables() -> tuple[DETable, DETable]:
    real, pred = make(predicted=False), make(predicted=True)
    control = real[0][real[2] == "ctrl"]
    return tuple(_table(counts, labels, control) for counts, _, labels in (real, pred))  # type: ignore[return-value]


def test_the_numbers_of_cell_eval2(tables: tuple[DETable, DETable]) -> None:
    own_gene = np.array([[gene == label for gene in tables[0].genes] for label in LABELS])
    assert len(tables[0].genes) == 29
    got = agreement(*tables, own_gene)
    for name, expected in EXPECTED.items():
        np.testing.assert_allclose(getattr(got, name), expected, atol=1e-9, err_msg=name)


def _random(seed: int, genes: int = 60, rows: int = 30) -> tuple[DETable, DETable]:
    rng = np.random.default_rng(seed)
    out = []
    truth = rng.normal(size=(rows, genes))
    for _ in range(2):
        fold = np.round(truth + rng.normal(size=truth.shape), 1)
        fold[rng.random(fold.shape) < 0.02] = np.inf
        fdr = np.clip(np.exp(-2 * np.abs(fold) + rng.normal(size=fold.shape)), 0, 1)
        out.append(_de(fold, fdr / 2, fdr, [f"g{i}" for i in rng.permutation(genes)]))
    out[1] = _de(out[1].log2_fold_change, out[1].p_value, out[1].fdr, out[0].genes)
    return out[0], out[1]


@pytest.mark.parametrize("seed", range(3))
def test_plain_loops_agree(seed: int) -> None:
    real, pred = _random(seed)
    got = agreement(real, pred)
    for row in range(len(real.labels)):
        s, t = (
            set(np.flatnonzero(real.significant[row])),
            set(np.flatnonzero(pred.significant[row])),
        )
        a, b = real.log2_fold_change[row], pred.log2_fold_change[row]
        assert got.overlap[row] == pytest.approx(len(s & t) / len(s | t))
        assert got.mcc[row] == pytest.approx(
            matthews_corrcoef(real.significant[row], pred.significant[row])
        )
        called = [g for g in t if a[g] != 0]
        hits = [g for g in called if np.sign(a[g]) == np.sign(b[g])]
        assert got.fidelity[row] == pytest.approx(len(hits) / max(len(called), len(s)))
        ranked = sorted(
            s,
            key=lambda g: (
                g not in t,
                pred.fdr[row, g],
                pred.p_value[row, g],
                -abs(b[g]),
                pred.genes[g],
            ),
        )
        best = seen = right = 0
        for g in ranked:
            if a[g] == 0:
                continue
            seen += 1
            right += np.sign(a[g]) == np.sign(b[g])
            if right / seen >= 0.9:
                best = seen
        assert got.reach[row] == pytest.approx(best / len(s))
        gate = [g for g in s if np.isfinite(a[g])]
        off = sum(abs((b[g] if np.isfinite(b[g]) else 0) - a[g]) for g in gate)
        if len(gate) < 10:
            assert np.isnan(got.lfc_nmae[row])
            continue
        assert got.lfc_nmae[row] == pytest.approx(off / sum(abs(a[g]) for g in gate))


def test_anchors() -> None:
    real, _ = _random(7)
    same = agreement(real, real)
    for values, best in zip(same, Agreement(1, 1, 1, 1, 0), strict=True):  # type: ignore[arg-type]
        if best == 1:
            assert np.nanmin(values) >= 1 - 1e-12
    finite = np.isfinite(real.log2_fold_change)
    mirrored = _de(-real.log2_fold_change, real.p_value, real.fdr, real.genes)
    against = agreement(real, mirrored)
    assert (against.fidelity == 0).all()
    assert (against.reach == 0).all()
    np.testing.assert_allclose(against.lfc_nmae, 2.0)
    silent = _de(np.zeros(finite.shape), np.ones(finite.shape), np.ones(finite.shape), real.genes)
    nothing = agreement(real, silent)
    assert (nothing.fidelity == 0).all()
    assert (nothing.mcc == -1).all()
    np.testing.assert_allclose(nothing.lfc_nmae, 1.0)
