"""Planted-truth data: single-cell counts whose drug effects are known.

What is planted, and why:

* **Lines.** Genes have log-normal abundance. Gene programmes ("pathways") are on (activity about 1)
  or nearly off (about 0.1) in each line and raise their genes, so that a line's control cells show
  which programmes it runs.
* **Effects.** ``lfc = hill(dose) * strength * (shared + pathway * activity + private)`` in natural
  log of the mean count: *shared* genes answer in every line (what a mean over lines can learn),
  *pathway* genes in proportion to the line's activity of the drug's target programme (what only a
  model that reads the basal cells can learn), *private* genes in one (drug, line) only (what nobody
  can learn). All three are sparse. The dose enters as one factor, so every gene's effect is
  monotone in dose. A fifth of the drugs is near null; the others differ in strength and direction.
* **Plates.** A plate carries one dose of up to ten drugs, plus DMSO wells: dose is confounded with
  plate, as in Tahoe-100M. Plates shift genes and depth.
* **Cells.** Log-normal library sizes, a latent factor inside each line, negative-binomial counts
  (variance = mean + 0.25 mean^2); more than 85 % of X is zero.

Files hold counts in X, ``obsm["X_hvg"]`` = ln(1 + 10^4 count / total) of the most variable genes
(named in ``uns["hvg_names"]``), and ``obsm["X_embedding"]``, a 64-wide random projection of
expression that stands in for a foundation model's cell embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from statetx.config import Simulate
from statetx.core.errors import ConfigError
from statetx.core.writes import whole
from statetx.data.store.layout import file_name

if TYPE_CHECKING:  # the workflow asks for `line_names` at every start: 1 s less without these
    from scipy import sparse

CONTROL = "DMSO_TF_00"
TARGET_SUM = 1e4
EMBEDDING_WIDTH = 64
DRUGS_PER_PLATE = 10
MEDIAN_DEPTH_PER_GENE = 1.0
"""Median total count of a cell, per simulated gene: 1,000 counts over the default 1,000 genes."""
OVERDISPERSION = 0.25
ABUNDANCE_SD = 2.9
"""SD of log gene abundance: with the depth above it leaves 86-88 % zeros."""


@dataclass(frozen=True)
class Truth:
    """The planted parameters.

    Attributes
    ----------
    base
        Log abundance of each gene in each line [L, G]; a line's exponentials sum to 1.
    effect
        Log fold change at saturating dose [D, L, G].
    hill
        Fraction of the effect reached at each dose [D, doses], increasing along each row.
    plate_shift
        Log shift of each gene on each plate [plates, G].
    plate_depth
        Log shift of depth of each plate [plates].
    latent
        Loadings of the factor that varies between the cells of a line [G].
    """

    base: np.ndarray
    effect: np.ndarray
    hill: np.ndarray
    plate_shift: np.ndarray
    plate_depth: np.ndarray
    latent: np.ndarray


def line_names(settings: Simulate) -> list[str]:
    """Return the names of the simulated cell lines, known before anything is simulated."""
    return [f"L{i + 1:02d}" for i in range(settings.n_lines)]


def drug_names(settings: Simulate) -> list[str]:
    """Return the names of the simulated drugs."""
    return [f"Drug{i + 1:02d}" for i in range(settings.n_drugs)]


def label(drug: str, dose: float) -> str:
    """Return the perturbation label of a drug at a dose in uM."""
    return f"{drug}_{dose:g}"


def plate_of(settings: Simulate, drug: int, dose: int) -> int:
    """Return the number of the plate that carries this drug at this dose."""
    return (drug // DRUGS_PER_PLATE) * len(settings.doses) + dose


def n_plates(settings: Simulate) -> int:
    """Return the number of plates."""
    return -(-settings.n_drugs // DRUGS_PER_PLATE) * len(settings.doses)


def plant(settings: Simulate) -> Truth:
    """Draw the planted parameters; a pure function of the settings.

    Parameters
    ----------
    settings
        Sizes and seed.
    """
    rng = np.random.default_rng([settings.seed, 0])
    lines, drugs, genes = settings.n_lines, settings.n_drugs, settings.n_genes
    abundance = rng.normal(0.0, ABUNDANCE_SD, genes)
    # Effects on genes that are hardly ever seen cannot be found by anybody: programmes and targets
    # are drawn from the more abundant part.
    visible = np.flatnonzero(abundance >= np.quantile(abundance, 0.6))
    n_programmes = max(4, genes // 80)
    size = max(3, genes // 40)
    programme = np.zeros((n_programmes, genes))
    for row in programme:
        row[rng.choice(visible, size, replace=False)] = rng.uniform(0.5, 1.5, size)
    on = rng.random((lines, n_programmes)) < 0.5
    activity = np.where(on, rng.uniform(0.8, 1.2, on.shape), rng.uniform(0.0, 0.15, on.shape))
    own = rng.normal(0.0, 0.25, (lines, genes))
    base = abundance + activity @ programme + own
    base -= np.log(np.exp(base).sum(axis=1, keepdims=True))

    strength = rng.uniform(0.7, 1.5, drugs)
    strength[rng.permutation(drugs)[: drugs // 5]] = 0.05
    direction = rng.choice([-1.0, 1.0], drugs)
    target = rng.integers(n_programmes, size=drugs)
    effect = np.zeros((drugs, lines, genes))
    n_shared, n_private = max(3, genes // 40), max(1, genes // 200)
    for d in range(drugs):
        shared = rng.choice(visible, n_shared, replace=False)
        signs = np.where(rng.random(n_shared) < 0.75, direction[d], -direction[d])
        effect[d][:, shared] += signs * rng.uniform(0.4, 1.4, n_shared)
        effect[d] += direction[d] * 1.2 * activity[:, [target[d]]] * programme[target[d]]
        for line in range(lines):
            private = rng.choice(visible, n_private, replace=False)
            effect[d, line, private] += rng.normal(0.0, 0.8, n_private)
        effect[d] *= strength[d]

    doses = np.asarray(settings.doses)
    low, high = np.log(doses.min()), np.log(doses.max())
    middle = np.exp(rng.uniform(low, max(low + 0.7 * (high - low), low + 1e-9), (drugs, 1)))
    slope = rng.uniform(1.0, 2.0, (drugs, 1))
    hill = doses**slope / (doses**slope + middle**slope)

    plates = n_plates(settings)
    return Truth(
        base=base,
        effect=effect,
        hill=hill,
        plate_shift=rng.normal(0.0, 0.08, (plates, genes)),
        plate_depth=rng.normal(0.0, 0.12, plates),
        latent=np.where(rng.random(genes) < 0.08, rng.normal(0.0, 0.5, genes), 0.0),
    )


def simulate(settings: Simulate, out_dir: Path) -> None:
    """Write ``<cell line>.h5ad`` per line and ``truth.parquet`` into `out_dir`.

    ``truth.parquet`` has one row per (line, drug, dose, gene) whose planted effect is not zero:
    ``line, perturbation, drug, dose, gene, lfc`` (natural log). The sparse counts of all lines are
    held in memory until the variable genes are chosen (about 1 KB per cell at 1,000 genes).

    Parameters
    ----------
    settings
        Sizes and seed.
    out_dir
        Directory, made if need be.

    Raises
    ------
    ConfigError
        More variable genes than genes, or doses that repeat or are not positive.
    """
    import anndata

    if settings.n_hvg > settings.n_genes:
        raise ConfigError(
            f"n_hvg = {settings.n_hvg} is more than n_genes = {settings.n_genes}",
            where="datasets.<name>.simulate",
            fix="lower n_hvg",
        )
    if min(settings.doses) <= 0 or len(set(settings.doses)) < len(settings.doses):
        raise ConfigError(
            f"doses must be positive and different: {settings.doses}",
            where="datasets.<name>.simulate.doses",
            fix="list every dose once, in uM",
        )
    truth = plant(settings)
    lines = line_names(settings)
    genes = [f"Gene{i + 1:04d}" for i in range(settings.n_genes)]
    cells = [_cells(settings, truth, i) for i in range(len(lines))]
    variable = _variable_genes([counts for counts, _ in cells], settings.n_hvg)
    projection = np.random.default_rng([settings.seed, 1]).normal(
        0.0, settings.n_genes**-0.5, (settings.n_genes, EMBEDDING_WIDTH)
    )
    for name, (counts, obs) in zip(lines, cells, strict=True):
        logged = _log1p(counts)
        adata = anndata.AnnData(
            X=counts.astype(np.float32),
            obs=obs.assign(cell_line=pd.Categorical([name] * len(obs))),
            var=pd.DataFrame(index=pd.Index(genes)),
            obsm={
                "X_hvg": logged[:, variable].toarray().astype(np.float32),
                "X_embedding": np.tanh(logged @ projection).astype(np.float32),
            },
            uns={"hvg_names": np.asarray(genes, dtype=object)[variable]},
        )
        with whole(Path(out_dir) / f"{file_name(name)}.h5ad") as part:
            adata.write_h5ad(part)
    with whole(Path(out_dir) / "truth.parquet") as part:
        _table(settings, truth, genes).to_parquet(part, index=False)


def _cells(settings: Simulate, truth: Truth, line: int) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Draw the counts [n, G] (uint16) and obs of one line, wells in plate order."""
    from scipy import sparse

    rng = np.random.default_rng([settings.seed, 2, line])
    drugs, plates = drug_names(settings), n_plates(settings)
    blocks: list[sparse.csr_matrix] = []
    labels: list[str] = []
    batches: list[int] = []
    share = np.diff(np.linspace(0, settings.controls_per_line, plates + 1).round().astype(int))
    wells = [(CONTROL, plate, 0.0, int(share[plate])) for plate in range(plates)]
    for d, drug in enumerate(drugs):
        for k, dose in enumerate(settings.doses):
            # mean of exp(N(-s^2/2, s)) is 1: cells_per_condition stays the mean
            n = max(2, round(settings.cells_per_condition * np.exp(rng.normal(-0.02, 0.2))))
            effect = truth.hill[d, k] * truth.effect[d, line]
            wells.append((label(drug, dose), plate_of(settings, d, k), effect, n))
    for name, plate, effect, n in wells:
        log_rate = truth.base[line] + effect + truth.plate_shift[plate]
        log_rate = log_rate + rng.normal(0.0, 1.0, (n, 1)) * truth.latent
        depth = np.log(MEDIAN_DEPTH_PER_GENE * settings.n_genes) + truth.plate_depth[plate]
        mean = np.exp(log_rate + rng.normal(depth, 0.35, (n, 1)))
        noise = rng.gamma(1 / OVERDISPERSION, OVERDISPERSION, mean.shape)
        counts = np.minimum(rng.poisson(mean * noise), np.iinfo(np.uint16).max)
        blocks.append(sparse.csr_matrix(counts.astype(np.uint16)))
        labels += [name] * n
        batches += [plate] * n
    # Files come off a plate, not off a condition: readers must not count on sorted rows.
    order = np.lexsort((rng.permutation(len(labels)), np.asarray(batches)))
    names = line_names(settings)[line]
    obs = pd.DataFrame(
        {
            "drug_dose": pd.Categorical(np.asarray(labels, dtype=object)[order]),
            "batch": pd.Categorical([f"plate{batches[i] + 1}" for i in order]),
        },
        index=pd.Index([f"{names}-{i:06d}" for i in range(len(order))]),
    )
    return sparse.vstack(blocks, format="csr")[order], obs


def _log1p(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return ln(1 + 10^4 count / total) [n, G]; the total is the row sum over all genes."""
    total = np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1.0)
    logged = counts.astype(np.float64)
    logged.data = np.log1p(logged.data * np.repeat(TARGET_SUM / total, np.diff(counts.indptr)))
    return logged


def _variable_genes(cells: list[sparse.csr_matrix], n: int) -> np.ndarray:
    """Return the sorted columns of the `n` genes with the largest variance of log1p expression."""
    rows, first, second = 0, np.zeros(1), np.zeros(1)
    for counts in cells:
        logged = _log1p(counts)
        rows += logged.shape[0]
        first = first + np.asarray(logged.sum(axis=0)).ravel()
        second = second + np.asarray(logged.multiply(logged).sum(axis=0)).ravel()
    variance = second / rows - (first / rows) ** 2
    return np.sort(np.argsort(-variance, kind="stable")[:n])


def _table(settings: Simulate, truth: Truth, genes: list[str]) -> pd.DataFrame:
    """Return the non-zero planted effects, one row per (line, drug, dose, gene)."""
    drug, line, gene = np.nonzero(truth.effect)
    saturated = truth.effect[drug, line, gene]
    drugs, lines = np.asarray(drug_names(settings)), np.asarray(line_names(settings))
    parts = [
        pd.DataFrame(
            {
                "line": lines[line],
                "perturbation": [label(name, dose) for name in drugs[drug]],
                "drug": drugs[drug],
                "dose": dose,
                "gene": np.asarray(genes)[gene],
                "lfc": saturated * truth.hill[drug, k],
            }
        )
        for k, dose in enumerate(settings.doses)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values(["line", "drug", "dose", "gene"], ignore_index=True)
