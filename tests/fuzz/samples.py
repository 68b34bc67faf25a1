"""Small undamaged inputs: a finished results tree, cells, tables, a State run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import yaml
from scipy import sparse

CONTROL = "DMSO_TF_00"
LINES, LABELS, BATCHES = ("L01", "L02"), (CONTROL, "Drug01_0.5", "Drug02_5.0"), ("p1", "p2")
GENES = [f"gene{i:02d}" for i in range(12)]

CONFIG: dict[str, Any] = {
    "datasets": {
        "tiny": {
            "files": "simulate",
            "simulate": {
                **{"n_lines": 4, "n_drugs": 5, "doses": [5.0], "cells_per_condition": 6},
                **{"controls_per_line": 12, "n_genes": 40, "n_hvg": 20},
            },
            "control_pert": [CONTROL, "vehicle"],
            "scale": "counts",
            "embed_keys": ["X_embedding"],
        }
    },
    "splits": {
        "block": {
            **{"dataset": "tiny", "generator": "dc_block", "drug_fraction": 0.4},
            **{"line_fraction": 0.25, "val_drug_fraction": 0.2, "val_line_fraction": 0.25},
        }
    },
    "models": {
        "context_mean": {"kind": "context_mean"},
        "small": {
            **{"kind": "pertsets", "genes": {"n_hvg": 15}, "cell_set_len": 4, "hidden_dim": 8},
            **{"n_encoder_layers": 1, "n_decoder_layers": 1},
            "backbone": {
                **{"num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4},
                "intermediate_size": 8,
            },
            "training": {"max_steps": 2, "batch_size": 2, "val_freq": 2, "ckpt_every_n_steps": 1},
        },
    },
    "experiments": {"main": {"splits": ["block"], "models": ["context_mean", "small"]}},
    "evaluation": {"n_bootstrap": 100},
}
"""All contract files in the fewest bytes."""


@contextlib.contextmanager
def inside(home: Path) -> Iterator[None]:
    """Work in a directory: the stages write below the working directory."""
    before = Path.cwd()
    os.chdir(home)
    try:
        yield
    finally:
        os.chdir(before)


def results_tree(home: Path) -> None:
    """Run every stage on simulated cells: ``results/tiny`` and the page of the experiment."""
    from statetx.cli import stages as cli_stages
    from statetx.config import load
    from statetx.data.simulate import simulate

    with inside(home):
        Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
        cfg = load("config.yaml")
        simulate(cfg.datasets["tiny"].simulate, Path("results/tiny/simulate"))
        config = Path("config.yaml")
        cli_stages.pack(config, "tiny")
        cli_stages.split(config, "tiny/block")
        cli_stages.genes(config, "tiny/block")
        cli_stages.reference(config, "tiny/block")
        for model in cfg.models:
            cli_stages.train(config, f"tiny/block/{model}/0")
            cli_stages.predict(config, f"tiny/block/{model}/0")
            cli_stages.evaluate_run(config, f"tiny/block/{model}/0")
        cli_stages.verdict(config, "main")
        cli_stages.report(config, "main")


def cells(seed: int = 0, n: int = 48) -> anndata.AnnData:
    """Return counts of two lines on two plates, a third of the cells controls."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (n, len(GENES))).astype(np.float32)
    counts[:, 0] += 1  # no empty cell
    at = np.arange(n)
    obs = pd.DataFrame(
        {
            "drug_dose": pd.Categorical(np.array(LABELS)[at % 3]),
            "cell_line": np.array(LINES)[at // 3 % 2],
            "batch": np.array(BATCHES)[at // 6 % 2],
        },
        index=[f"cell{i:03d}" for i in at],
    )
    return anndata.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=GENES))


def counts_file(home: Path) -> None:
    """Write ``cells.h5ad`` with counts."""
    cells().write_h5ad(home / "cells.h5ad")


def log1p(adata: anndata.AnnData, dense: bool = False) -> anndata.AnnData:
    """Return cells with ln(1 + counts per 10,000) in X."""
    x = adata.X.toarray()
    x = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)).astype(np.float32)
    adata.X = x if dense else sparse.csr_matrix(x)
    return adata


def pair(home: Path) -> None:
    """Write ``real.h5ad`` and ``pred.h5ad``, and tests of the real cells as pdex writes them."""
    log1p(cells()).write_h5ad(home / "real.h5ad")
    log1p(cells(1), dense=True).write_h5ad(home / "pred.h5ad")
    rng = np.random.default_rng(0)
    rows = [
        {
            **{"target": label, "feature": gene, "fold_change": 1.0, "cell_line": line},
            **{"log2_fold_change": rng.normal(), "p_value": rng.random(), "fdr": rng.random()},
        }
        for line in LINES
        for label in LABELS[1:]
        for gene in GENES
    ]
    pd.DataFrame(rows).to_csv(home / "real_de.csv", index=False)
    pd.DataFrame(rows).to_parquet(home / "real_de.parquet", index=False)
    columns = ["pearson_delta", "mse", "mae", "de_nsig_counts_real"]
    for name in ("user", "baseline"):
        table = pd.DataFrame(rng.random((9, 4)), columns=columns)
        names = ("count", "null_count", "mean", "std", "min", "25%", "50%", "75%", "max")
        table.insert(0, "statistic", names)
        table.to_csv(home / f"{name}_agg.csv", index=False)


def tables(home: Path) -> None:
    """Write a split with the tables that people bring: conditions, drugs, lines, features."""
    toml = (
        '[datasets]\ntiny = "cells.h5ad"\n\n[training]\ntiny = "train"\n\n'
        '[zeroshot]\n"tiny.L03" = "val"\n\n'
        '[fewshot."tiny.L01"]\nval = ["Drug01_0.5"]\ntest = ["Drug02_5.0", "Drug03_1"]\n'
    )
    (home / "split.toml").write_text(toml)
    drugs = [CONTROL, "Drug01_0.5", "Drug02_5.0", "Drug03_1", "Drug04_2"]
    rows = [
        {"line": line, "perturbation": label, "n_cells": 20 + i, "batch": BATCHES[i % 2]}
        for line in ("L01", "L02", "L03")
        for i, label in enumerate(drugs)
    ]
    pd.DataFrame(rows).to_csv(home / "conditions.csv", index=False)
    pd.DataFrame(rows).to_parquet(home / "conditions.parquet", index=False)
    names = [f"Drug{i:02d}" for i in range(1, 5)]
    smiles = ["CCO", "c1ccccc1", "CC(=O)O", "CCN"]
    drug_table = pd.DataFrame({"drug": names, "smiles": smiles, "moa": ["a", "a", "b", "b"]})
    drug_table.to_csv(home / "drugs.csv", index=False)
    numbers = pd.DataFrame(np.arange(15.0).reshape(5, 3), index=drugs, columns=["a", "b", "c"])
    numbers.to_csv(home / "features.csv", index_label="label")
    numbers.reset_index(names="label").to_csv(home / "features.tsv", index=False, sep="\t")
    numbers.reset_index(names="label").to_parquet(home / "features.parquet", index=False)


def model_and_cells(tree: Path, home: Path) -> None:
    """Copy a baseline model, write somebody's cells for it and a table of conditions."""
    import shutil

    source = tree / "results/tiny/block/context_mean/seed0/model"
    shutil.copytree(source, home / "model")
    said = json.loads((source / "model.json").read_text())
    genes = (source / "genes.txt").read_text().splitlines()
    rng = np.random.default_rng(0)
    labels = [said["control"], *said["perturbations"][1:3]]
    at = np.arange(30)
    obs = pd.DataFrame(
        {
            "drug_dose": np.array(labels)[at % 3],
            "cell_line": np.array(said["lines"])[at // 3 % 2],
            "batch": "p",
        },
        index=[f"cell{i}" for i in at],
    )
    # Genes that the model leaves out have most of the counts, as in its training cells.
    genes += [f"other{i:02d}" for i in range(25)]
    x = rng.poisson(1.0, (30, len(genes))).astype(np.float32)
    x[:, 0] += 1
    anndata.AnnData(x, obs, pd.DataFrame(index=genes)).write_h5ad(home / "cells.h5ad")
    table = pd.DataFrame({"perturbation": labels[1:], "cell_line": said["lines"][0], "n_cells": 5})
    table.to_csv(home / "asked.csv", index=False)


def state_run(home: Path) -> None:
    """Write a run of State in gene space, as its trainer leaves it."""
    import torch

    from statetx.models.network.architecture import Architecture
    from statetx.models.network.backbone import Shape
    from statetx.models.network.set_transformer import PertSets

    torch.manual_seed(0)
    width, labels = len(GENES), [np.str_(label) for label in LABELS]
    network = PertSets(
        Architecture(
            **{"input_dim": width, "output_dim": width, "pert_dim": len(labels)},
            **{"backbone": Shape(8, 1, 2, 4, 8), "dropout": 0.0, "relu": True},
        )
    )
    settings = {
        **{
            "output_space": "gene",
            "control_pert": CONTROL,
            "cell_set_len": 4,
            "embed_key": "X_hvg",
        },
        "transformer_backbone_kwargs": {"num_attention_heads": 2, "bidirectional_attention": True},
    }
    (home / "checkpoints").mkdir(parents=True)
    content = {"state_dict": dict(network.state_dict()), "hyper_parameters": settings}
    torch.save(content, home / "checkpoints/best.ckpt")
    eye = torch.eye(len(labels))
    torch.save({label: eye[i] for i, label in enumerate(labels)}, home / "pert_onehot_map.pt")
    dims = {"pert_dim": len(labels), "gene_names": GENES, "array": np.arange(3)}
    (home / "var_dims.pkl").write_bytes(pickle.dumps(dims))
    kwargs = {"pert_col": "drug_dose", "cell_type_key": "cell_line", "control_pert": CONTROL}
    (home / "config.yaml").write_text(yaml.safe_dump({"data": {"kwargs": kwargs}}))
