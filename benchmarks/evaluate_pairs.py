"""Pairs of h5ads, real and predicted cells, for `evaluate.py`: nasty ones, public ones, large ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from common import ROOT
from scipy import sparse

sys.path.insert(0, str(ROOT / "tests" / "evaluation"))
import cell_eval_fixture as fixture

CONTROL, LABEL, LINE, EMBEDDING = "ctrl", "label", "line", "X_emb"
DATA = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Pair:
    """Two tables of cells that are compared with each other.

    Attributes
    ----------
    name, real, pred
        Name and both sides; obs has `LABEL` and `LINE`.
    by_line, embedded, counts
        Whether lines are scored apart, `EMBEDDING` is used, X holds counts.
    profile
        cell-eval's profile.
    documented
        Column -> why it differs on purpose.
    """

    name: str
    real: ad.AnnData
    pred: ad.AnnData
    by_line: bool = False
    embedded: bool = False
    counts: bool = False
    profile: str = "full"
    documented: Mapping[str, str] | None = None

    @property
    def single(self) -> bool:
        """Whether a side's values are not float64."""
        return any(side.X.dtype != np.float64 for side in (self.real, self.pred))


# ---------------------------------------------------------------------------------------------
# made ones


def cells(
    seed: int,
    sizes: Mapping[str, int],
    genes: Sequence[str],
    predicted: bool,
    strength: float = 1.0,
    changed: float = 0.25,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw counts [n, G] and labels [n]: overdispersed, depths that vary, a fold for some genes.

    Parameters
    ----------
    seed
        Folds and levels are common to both sides.
    sizes
        Label -> number of cells; `CONTROL` has no effect.
    genes
        Their names.
    predicted
        Which side: the prediction's folds are dampened and off by a bit.
    strength
        Standard deviation of log folds.
    changed
        Share of genes that a label changes.
    """
    common, own = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1 + predicted])
    level = common.gamma(0.7, 3.0, len(genes))
    blocks, labels = [], []
    for label, n in sizes.items():
        log_fold = strength * common.normal(size=len(genes)) * (common.random(len(genes)) < changed)
        off = 0.3 * strength * common.normal(size=len(genes)) * (common.random(len(genes)) < 0.2)
        if label == CONTROL:
            log_fold, off = 0 * log_fold, 0 * off
        if predicted:
            log_fold = 0.7 * log_fold + off
        depth = own.lognormal(0.0, 0.4, (n, 1))
        rates = depth * level * np.exp(log_fold) * own.gamma(2.0, 0.5, (n, len(genes)))
        blocks.append(own.poisson(rates))
        labels += [label] * n
    return np.concatenate(blocks), np.array(labels, dtype=object)


def log_values(counts: np.ndarray) -> np.ndarray:
    """Return ln(1 + 10,000 count / total); empty cells stay empty."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.log1p(1e4 * counts / np.where(totals > 0, totals, 1))


def table(
    values: np.ndarray,
    labels: Sequence[Any] | np.ndarray,
    genes: Sequence[str],
    kind: str = "dense",
    dtype: str = "float64",
    lines: Sequence[Any] | np.ndarray | None = None,
) -> ad.AnnData:
    """Return cells as a table that is dense, csr or csc."""
    matrix = values.astype(dtype)
    matrix = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[kind](matrix)
    obs = pd.DataFrame(
        {
            LABEL: np.asarray(labels).astype(str),
            LINE: "one" if lines is None else np.asarray(lines).astype(str),
        },
        index=[f"c{i}" for i in range(len(values))],
    )
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=list(genes)))


def names(n: int) -> list[str]:
    """Return gene names."""
    return [f"g{i}" for i in range(n)]


def from_fixture() -> Iterator[Pair]:
    """Yield the fixture of the tests and its twin with exchanged labels."""
    _, real, labels = fixture.make(False)
    _, pred, _ = fixture.make(True)
    renamed = [fixture.RELABELLED.get(label, label) for label in labels]
    for name, told in (("fixture", labels), ("fixture relabelled", renamed)):
        yield Pair(name, *(table(x, y, fixture.GENES) for x, y in ((real, labels), (pred, told))))


def simple(
    name: str,
    seed: int,
    sizes: Mapping[str, int],
    *,
    genes: Sequence[str] | int = 120,
    strength: float = 1.0,
    kinds: tuple[str, str] = ("csr", "csr"),
    dtypes: tuple[str, str] = ("float64", "float64"),
    pred_sizes: Mapping[str, int] | None = None,
    mend: Callable[[np.ndarray, np.ndarray, bool], np.ndarray] | None = None,
    counts: bool = False,
    **options: Any,
) -> Pair:
    """Return a pair of drawn cells; `mend(counts, labels, predicted)` changes the counts."""
    genes = names(genes) if isinstance(genes, int) else genes
    sides = []
    for predicted in (False, True):
        drawn, labels = cells(
            seed, (pred_sizes or sizes) if predicted else sizes, genes, predicted, strength
        )
        if mend is not None:
            drawn = mend(drawn, labels, predicted)
        values = drawn if counts else log_values(drawn)
        sides.append(table(values, labels, genes, kinds[predicted], dtypes[predicted]))
    return Pair(name, sides[0], sides[1], counts=counts, **options)


def _even(n: int, each: int = 30, control: int = 80) -> dict[str, int]:
    return {CONTROL: control, **{f"p{i:02d}": each for i in range(n)}}


def _emptied(drawn: np.ndarray, labels: np.ndarray, predicted: bool) -> np.ndarray:
    """Three genes are zero everywhere, one on one side only, and every ninth cell is empty."""
    drawn = drawn.copy()
    drawn[:, [3, 50, 119]] = 0
    drawn[:, 7 + predicted] = 0
    drawn[::9] = 0
    return drawn


def _constant(pair: Pair, of_control: bool) -> Pair:
    """Replace predicted cells by copies of one profile, of the controls or of the real cells."""
    pred = pair.pred.copy()
    truth = pair.real.X
    labels = pair.real.obs[LABEL].to_numpy()
    for label in set(labels) - {CONTROL}:
        source = pred.X[pred.obs[LABEL].to_numpy() == CONTROL] if of_control else None
        profile = (truth[labels == label] if source is None else source).mean(axis=0)
        pred.X[pred.obs[LABEL].to_numpy() == label] = profile
    return replace(pair, pred=pred)


def nasty() -> Iterator[Pair]:
    """Yield small pairs in which something is unusual."""
    few = {CONTROL: 60, "p1": 1, "p2": 2, "p3": 3, "p4": 25, "p5": 1, "p6": 40}
    yield simple("labels are genes", 1, {CONTROL: 70, **{f"g{i}": 25 for i in range(12)}})
    yield simple("1 to 3 cells", 2, few, kinds=("csc", "csc"))
    yield simple("2 controls", 3, {CONTROL: 2, "a": 20, "b": 15, "c": 3}, strength=2.0)
    yield simple("1 control", 4, {CONTROL: 1, "a": 20, "b": 15, "c": 3}, strength=2.0)
    yield simple("nothing significant", 5, _even(5, 4, 6), strength=0.0)
    yield simple("nothing significant in the real cells", 6, _even(4, 5, 8), strength=0.1,
                 pred_sizes=_even(4, 60, 90),
                 mend=lambda x, y, side: x * 4 if side else x)  # fmt: skip
    yield simple("one perturbation", 7, _even(1))
    yield simple("two perturbations", 8, _even(2), kinds=("dense", "dense"))
    yield _constant(simple("constant", 9, _even(6), kinds=("dense", "dense")), of_control=False)
    yield replace(
        _constant(simple("constant controls", 10, _even(6), kinds=("dense", "dense")), True),
        documented={
            "pearson_delta": "a delta of rounding noise has no correlation",
            "discrimination_score_cosine": "a delta of rounding noise has no direction",
            **dict.fromkeys(
                [
                    "de_spearman_lfc_sig",
                    "de_direction_match",
                    *(
                        f"{x}_at_{k}"
                        for x in ("overlap", "precision")
                        for k in (*"N", 50, 100, 200, 500)
                    ),
                ],
                "fold changes of rounding noise have no order",
            ),
        },
    )
    yield simple("own controls", 11, _even(7), pred_sizes=_even(7, 22, 45), kinds=("dense", "csr"),
                 mend=lambda x, y, side: x + side * (np.arange(x.shape[1]) % 4 == 0))  # fmt: skip
    yield simple("empty cells, zero genes", 12, _even(5), mend=_emptied)
    odd = ("γ-Oryzanol", "a,b", 'said "so"', "Erdafitinib ", "None", "NA", "1.0", "1", "Ωmega",
           "[('X', 0.05, 'uM')]", "drug_10", "Drug_2", "a;b", "x/y")  # fmt: skip
    yield simple("odd labels", 13, {CONTROL: 60, **dict.fromkeys(odd, 20)})
    yield simple("float16", 14, _even(5), kinds=("dense",) * 2, dtypes=("float16",) * 2)
    yield simple("float32 dense", 15, _even(8), kinds=("dense",) * 2, dtypes=("float32",) * 2)
    yield simple("float32 csr", 16, _even(8), dtypes=("float32",) * 2)
    yield simple("float32 csc", 17, _even(8), kinds=("csc",) * 2, dtypes=("float32",) * 2)
    yield simple("mixed", 18, _even(8), kinds=("dense", "csr"), dtypes=("float64", "float32"))
    yield simple("600 genes", 19, _even(6, 80, 200), genes=600, strength=1.5)
    yield simple("one-sided zeros", 20, _even(5, 60, 100),
                 mend=lambda x, y, side: np.where(
                     (y[:, None] == CONTROL) & (np.arange(x.shape[1]) % 3 == 0), 0, x))  # fmt: skip
    yield simple("many ties", 21, _even(6, 60, 100),
                 mend=lambda x, y, side: np.minimum(x, 1))  # fmt: skip
    for number, (kind, dtype) in enumerate(
        [("csr", "int64"), ("csr", "float32"), ("csc", "int32"), ("dense", "int64"),
         ("dense", "float32"), ("dense", "float64"), ("csr", "float64")]
    ):  # fmt: skip
        yield simple(f"counts {dtype} {kind}", 30 + number, _even(6), kinds=(kind,) * 2,
                     dtypes=(dtype,) * 2, counts=True)  # fmt: skip
    for number, kind in enumerate(["csr", "csc", "dense"]):
        yield simple(f"counts {kind}, empty cells", 40 + number, _even(6), kinds=(kind,) * 2,
                     counts=True, mend=_emptied)  # fmt: skip
    for profile in ("de", "anndata", "minimal", "vcc", "pds"):
        yield simple(f"profile {profile}", 50, _even(4), profile=profile)
    yield several_lines()
    for seed in range(60, 66):
        yield anything(seed)


def several_lines() -> Pair:
    """Return three lines with labels of their own; one name holds a slash."""
    genes = names(120)
    sides = []
    for predicted in (False, True):
        parts = []
        for seed, line in enumerate(("HepG2/C3A", "A 549", "γδT")):
            sizes = _even(3 + seed, 20 + 5 * seed, 50)
            counts, labels = cells(70 + seed, sizes, genes, predicted)
            parts.append((log_values(counts), labels, np.full(len(labels), line, dtype=object)))
        values, labels, lines = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.random.default_rng(0).permutation(len(labels))
        sides.append(table(values[order], labels[order], genes, "csr", lines=lines[order]))
    return Pair("lines", sides[0], sides[1], by_line=True)


def with_embedding() -> Pair:
    """Return a pair with an embedding beside X.

    The peer keeps the name of the embedding for all later runs of its process: run this one last.
    """
    pair = simple("embedding", 80, _even(9))
    projection = np.random.default_rng(0).normal(size=(120, 8))
    for side in (pair.real, pair.pred):
        side.obsm[EMBEDDING] = side.X.toarray() @ projection
    return replace(pair, embedded=True)


def anything(seed: int) -> Pair:
    """Return a pair of random shape, kind, size and strength."""
    draw = np.random.default_rng([seed, 9])
    labels = [f"p{i}" for i in range(draw.integers(2, 30))]
    sizes = {CONTROL: int(draw.integers(5, 300)), **{x: int(draw.integers(1, 60)) for x in labels}}
    own = {CONTROL: int(draw.integers(5, 300)), **{x: int(draw.integers(1, 60)) for x in labels}}
    kinds = tuple(map(str, draw.choice(["dense", "csr", "csc"], 2)))
    dtypes = tuple(map(str, draw.choice(["float32", "float64"], 2)))
    return simple(
        f"random {seed}: {kinds[0]} {dtypes[0]}, {kinds[1]} {dtypes[1]}",
        seed,
        sizes,
        genes=int(draw.integers(30, 400)),
        strength=float(draw.uniform(0, 1.5)),
        kinds=kinds,
        dtypes=dtypes,
        pred_sizes=own if draw.random() < 0.5 else None,
    )


# ---------------------------------------------------------------------------------------------
# public ones


def public() -> Iterator[Pair | str]:
    """Yield pairs from public data, with two predictions each; a reason where it is absent."""
    folders = {
        "kang": DATA / "kang_ifnb_scgen_valid",
        "glioblastoma": DATA / "gbm_panobinostat",
        "norman": DATA / "perturbench_norman_mcfaline",
    }
    for name, folder in folders.items():
        files = sorted(folder.glob("*.h5ad"))
        if not files:
            yield f"{name}: {folder} is absent"
            continue
        groups = {name: files}
        if name == "norman":
            groups = {
                "norman": [path for path in files if path.stem == "k562"],
                "mcfaline": [path for path in files if path.stem != "k562"],
            }
        for title, chosen in groups.items():
            real = read_public(chosen)
            by_line = real.obs[LINE].nunique() > 1
            for how, pred in (("context mean", context_mean(real)), ("noisy", noisy(real))):
                yield Pair(f"{title}, {how}", real, pred, by_line=by_line)


def read_public(files: Sequence[Path]) -> ad.AnnData:
    """Return the published log1p values of chosen genes (float32, CSR) of several files."""
    parts = []
    for path in files:
        data = ad.read_h5ad(path)
        labels = data.obs["drug_dose"].astype(str).to_numpy(dtype=object)
        labels[labels == data.uns["control_label"]] = CONTROL
        parts.append((data.obsm["X_hvg"], labels, np.full(len(labels), path.stem, dtype=object)))
        genes = [str(gene) for gene in data.uns["hvg_names"]]
    values, labels, lines = (np.concatenate(part) for part in zip(*parts, strict=True))
    return table(values, labels, genes, "csr", "float32", lines)


def _groups(cells: ad.AnnData) -> dict[tuple[str, str], np.ndarray]:
    groups = cells.obs.groupby([LINE, LABEL], observed=True).indices
    return {(str(line), str(label)): rows for (line, label), rows in groups.items()}


def context_mean(real: ad.AnnData) -> ad.AnnData:
    """Predict control cells of the line, moved by the mean delta of the label in other lines.

    Without another line: by the mean delta of the line's other labels.
    """
    draw = np.random.default_rng(1)
    groups, values = _groups(real), real.X.toarray()
    means = {key: values[rows].mean(axis=0) for key, rows in groups.items()}
    deltas = {key: mean - means[key[0], CONTROL] for key, mean in means.items()}
    out = values.copy()
    for (line, label), rows in groups.items():
        if label == CONTROL:
            continue
        others = [d for (x, y), d in deltas.items() if y == label and x != line]
        others = others or [d for (x, y), d in deltas.items() if x == line and y != label]
        start = values[draw.choice(groups[line, CONTROL], len(rows))]
        out[rows] = np.maximum(start + np.mean(others, axis=0), 0)
    return table(out, real.obs[LABEL], real.var_names, "csr", "float32", real.obs[LINE])


def noisy(real: ad.AnnData) -> ad.AnnData:
    """Predict the real cells, controls too, with noise on what is not zero."""
    values = real.X.toarray()
    scale = 1 + 0.3 * np.random.default_rng(2).normal(size=values.shape)
    out = np.clip(values * scale, 0, 14)
    return table(out, real.obs[LABEL], real.var_names, "csr", "float32", real.obs[LINE])


# ---------------------------------------------------------------------------------------------
# large ones


def write_large(
    path: Path, sizes: Mapping[str, int], n_genes: int, density: float, predicted: bool
) -> None:
    """Write a CSR float32 h5ad of log1p values like a screen's, label by label.

    A twentieth of the genes of each label are more or less often not zero.
    """
    common, own = np.random.default_rng(0), np.random.default_rng(1 + predicted)
    usual = np.clip(common.gamma(1.0, density, n_genes), 0.2 * density, 0.95)
    usual = np.clip(usual * density / usual.mean(), 0.0, 1.0).astype(np.float32)
    blocks = []
    for label, n in sizes.items():
        share = usual.copy()
        if label != CONTROL:
            some = common.choice(n_genes, n_genes // 20, replace=False)
            fold = common.lognormal(0.0, 0.8, len(some))
            share[some] = np.clip(share[some] * (fold**0.7 if predicted else fold), 0.0, 0.98)
        for start in range(0, n, 2000):
            kept = own.random((min(2000, n - start), n_genes), dtype=np.float32) < share
            at = np.flatnonzero(kept)
            counts = own.geometric(0.5, len(at)).astype(np.float32)
            factor = own.lognormal(0.5, 0.4, len(kept)).astype(np.float32)
            data = np.log1p(counts * factor[at // n_genes])
            pointer = np.append(0, np.cumsum(kept.sum(axis=1)))
            columns = (at % n_genes).astype(np.int32)
            blocks.append(sparse.csr_matrix((data, columns, pointer), kept.shape))
    matrix = sparse.vstack(blocks, format="csr")
    labels = np.repeat(list(sizes), list(sizes.values()))
    obs = pd.DataFrame({LABEL: pd.Categorical(labels)}, index=np.arange(len(labels)).astype(str))
    ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=names(n_genes))).write_h5ad(path)


def even_sizes(cells: int, controls: int, labels: int) -> dict[str, int]:
    """Spread cells over controls and labels."""
    each, more = divmod(cells - controls, labels)
    return {CONTROL: controls, **{f"p{i:03d}": each + (i < more) for i in range(labels)}}
