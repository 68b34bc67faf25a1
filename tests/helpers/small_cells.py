"""A small annotated matrix, and a store of such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from statetx.config import Dataset
from statetx.data.pack import pack

CONTROL = "DMSO_TF_00"


def cells(n: int = 60, genes: int = 30, seed: int = 0) -> anndata.AnnData:
    """Counts of two lines on two plates, a third of the cells controls."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.6, (n, genes)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "drug_dose": np.array([CONTROL, "A_1", "B_0.5"])[np.arange(n) % 3],
            "cell_line": np.array(["L1", "L2"])[np.arange(n) // 3 % 2],
            "batch": np.array(["p1", "p2"])[np.arange(n) // 6 % 2],
        },
        index=[f"c{seed}-{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(genes)])
    return anndata.AnnData(sparse.csr_matrix(counts), obs, var)


def settings(**changes: Any) -> Dataset:
    return Dataset.model_validate(
        {"files": ["*"], "control_pert": CONTROL, "scale": "counts", **changes}
    )


def packed(home: Path, made: Dataset, *adatas: anndata.AnnData) -> Path:
    files = []
    for i, adata in enumerate(adatas):
        files.append(home / f"f{i}.h5ad")
        adata.write_h5ad(files[-1])
    pack.pack(files, made, "d", home / "pack")
    assert not (home / "pack.parts").exists()
    return home / "pack"


def source_of(line: Any, *adatas: anndata.AnnData) -> anndata.AnnData:
    return anndata.concat(list(adatas))[line.barcodes]
