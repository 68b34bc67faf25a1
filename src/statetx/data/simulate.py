"""Simulated single-cell counts with known (planted) drug effects.

What is simulated, and why:

* **Lines.** Genes have log-normal abundance. Each line has gene programmes ("pathways") that are on
  (activity about 1) or nearly off (below 0.15) and increase their genes. The control cells of a
  line therefore show its active programmes.
* **Effects.** ``lfc = hill(dose) * strength * (shared + pathway * activity + private)`` in natural
  log of the mean count. *Shared* genes respond in every line; a mean over lines can learn them.
  *Pathway* genes respond in proportion to the activity of the target programme of the drug in the
  line; only a model that uses the basal cells can learn them. *Private* genes respond in a single
  (drug, line); no model can learn them. All three are sparse. The dose is one factor, so the effect
  on every gene is monotone in dose. A fifth of the drugs has almost no effect. The others differ in
  strength and direction.
* **Plates.** A plate carries one dose of up to ten drugs, and DMSO wells. Dose is confounded with
  plate, as in Tahoe-100M. Plates shift genes and depth.
* **Cells.** Library sizes are log-normal, and each line has a latent factor. Counts are negative
  binomial (variance = mean + 0.25 mean^2); more than 85 % of X is zero.

Each file has counts in X, ``obsm["X_hvg"]`` = ln(1 + 10^4 count / total) of the most variable genes
(named in ``uns["hvg_names"]``), and ``obsm["X_embedding"]``, a 64-wide random projection of
expression in place of the cell embedding of a foundation model.
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

if TYPE_CHECKING:  # the workflow calls `line_names` at every start: 1 s faster without scipy
    from scipy import sparse

CONTROL = "DMSO_TF_00"
TARGET_SUM = 1e4
EMBEDDING_WIDTH = 64
DRUGS_PER_PLATE = 10
MEDIAN_DEPTH_PER_GENE = 1.0
"""Median total count of a cell, per simulated gene: 1,000 counts over the default 1,000 genes."""
OVERDISPERSION = 0.25
ABUNDANCE_SD = 2.9
"""SD of log gene abundance. With the depth above, 86-88 % of X is zero."""


@dataclass(frozen=True)
class Truth:
    """The planted parameters of L lines, D drugs and G genes.

    Attributes
    ----------
    base
        Log abundance of each gene in each line, [L, G]; the exponentials of a line sum to 1.
    effect
        Log fold change at saturating dose, [D, L, G].
    hill
        Fraction of the effect at each dose, [D, doses], increasing with dose.
    plate_shift
        Log shift of each gene on each plate, [plates, G].
    plate_depth
        Log shift of the depth of each plate, [plates].
    latent
        Loadings of the factor that varies between the cells of a line, [G].
    """

    base: np.ndarray
    effect: np.ndarray
    hill: np.ndarray
    plate_shift: np.ndarray
    plate_depth: np.ndarray
    latent: np.ndarray


def line_names(settings: Simulate) -> list[str]:
    """Return the names of the simulated cell lines, which depend on the settings only."""
    return [f"L{i + 1:02d}" for i in range(settings.n_lines)]


def drug_names(settings: Simulate) -> list[str]:
    """Return the names of the simulated drugs."""
    return [f"Drug{i + 1:02d}" for i in range(settings.n_drugs)]


def label(drug: str, dose: float) -> str:
    """Return the perturbation label of a drug at a dose in uM."""
    return f"{drug}_{dose:g}"


def plate_of(settings: Simulate, drug: int, dose: int) -> int:
    """Return the index of the plate that carries a drug at a dose.

    Parameters
    ----------
    settings
        Sizes.
    drug, dose
        Indices of the drug and of the dose.
    """
    return (drug // DRUGS_PER_PLATE) * len(settings.doses) + dose


def n_plates(settings: Simulate) -> int:
    """Return the number of plates."""
    return -(-settings.n_drugs // DRUGS_PER_PLATE) * len(settings.doses)


def plant(settings: Simulate) -> Truth:
    """Draw the planted parameters, as a pure function of the settings.

    Parameters
    ----------
    settings
        Sizes and seed.
    """
    rng = np.random.default_rng([settings.seed, 0])
    lines, drugs, genes = settings.n_lines, settings.n_drugs, settings.n_genes
    abundance = rng.normal(0.0, ABUNDANCE_SD, genes)
    # No model can detect effects on genes that are almost never counted, so programmes and targets
    # are drawn from the 40 % most abundant genes.
    visible = np.flatnonzero(abundance >= np.quantile(abundance, 0.6))
    n_programmes = max(4, genes // 80)
    size = max(3, genes // 40)
    programme = np.zeros((n_programmes, genes))  # [programmes, G]
    for row in programme:
        row[rng.choice(visible, size, replace=False)] = rng.uniform(0.5, 1.5, size)
    on = rng.random((lines, n_programmes)) < 0.5
    activity = np.where(on, rng.uniform(0.8, 1.2, on.shape), rng.uniform(0.0, 0.15, on.shape))
    of_line = rng.normal(0.0, 0.25, (lines, genes))
    base = abundance + activity @ programme + of_line  # [L, G]
    base -= np.log(np.exp(base).sum(axis=1, keepdims=True))

    strength = rng.uniform(0.7, 1.5, drugs)
    strength[rng.permutation(drugs)[: drugs // 5]] = 0.05
    direction = rng.choice([-1.0, 1.0], drugs)
    target = rng.integers(n_programmes, size=drugs)
    effect = np.zeros((drugs, lines, genes))  # [D, L, G]
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
    kept in memory until the files are written (about 1 KB per cell at 1,000 genes).

    Parameters
    ----------
    settings
        Sizes and seed.
    out_dir
        Directory, created if it does not exist.

    Raises
    ------
    ConfigError
        There are more variable genes than genes, or doses repeat or are not positive.
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
    """Return the counts, uint16 [n, G], and obs of one line, sorted by plate."""
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
            # The mean of exp(N(-s^2/2, s)) is 1, so the mean size is cells_per_condition.
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
    # Real files are sorted by plate at most, so readers must not rely on rows sorted by condition.
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
    """Return ln(1 + 10^4 count / total), [n, G]; the total is the row sum over all genes."""
    total = np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1.0)
    logged = counts.astype(np.float64)
    logged.data = np.log1p(logged.data * np.repeat(TARGET_SUM / total, np.diff(counts.indptr)))
    return logged


def _variable_genes(cells: list[sparse.csr_matrix], n: int) -> np.ndarray:
    """Return the sorted columns of the n genes with the largest variance of log1p expression."""
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
