"""Fitted models on the tiny store, once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from statetx.config import (
    Additive,
    ContextMean,
    NearestDrug,
    NoChange,
    PertSets,
    PerturbationMean,
    Ridge,
)
from statetx.config.models import Backbone, Training
from statetx.data.pack.pack import pack
from statetx.training.fit import fit

SECTIONS = {
    "no_change": NoChange(kind="no_change"),
    "context_mean": ContextMean(kind="context_mean"),
    "perturbation_mean": PerturbationMean(kind="perturbation_mean"),
    "additive": Additive(kind="additive"),
    "ridge": Ridge(kind="ridge"),
    "nearest_drug": NearestDrug(kind="nearest_drug"),
    "pertsets": PertSets(
        kind="pertsets",
        embed_key="X_hvg",
        cell_set_len=8,
        hidden_dim=16,
        n_encoder_layers=1,
        n_decoder_layers=1,
        backbone=Backbone(
            num_hidden_layers=1, num_attention_heads=2, head_dim=8, intermediate_size=32
        ),
        training=Training(max_steps=4, batch_size=4, lr=1e-3, val_freq=2, ckpt_every_n_steps=2),
    ),
}


@pytest.fixture(scope="session")
def sections() -> dict:
    """A small model section of every kind."""
    return SECTIONS


@pytest.fixture(scope="session")
def model_dirs(
    tiny_store: Path, tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Model directory of every kind."""
    root = tmp_path_factory.mktemp("models")
    for kind, section in SECTIONS.items():
        home = root / kind
        keep = ["best", "last"] if kind == "pertsets" else ["best"]
        fit(
            tiny_store,
            tiny_plan,
            section,
            seed=0,
            out=home / "model",
            state_dir=home / "state",
            checkpoints_dir=home / "checkpoints",
            keep=keep,
        )
    return {kind: root / kind / "model" for kind in SECTIONS}


@pytest.fixture(scope="session")
def two_lines(tiny_source: Path) -> anndata.AnnData:
    """Cells of L01 and L03 in one file, in an order of their own."""
    parts = [anndata.read_h5ad(tiny_source / f"{line}.h5ad") for line in ("L01", "L03")]
    both = anndata.concat(parts, merge="same", uns_merge="same")
    assert "hvg_names" in both.uns
    return both[np.random.default_rng(0).permutation(both.n_obs)].copy()


@pytest.fixture
def cells(two_lines: anndata.AnnData) -> anndata.AnnData:
    return two_lines.copy()


@pytest.fixture(scope="session")
def counts_model(
    tiny_source: Path, tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory, tiny_settings
) -> Path:
    """no_change, trained on X as counts: what it predicts is its input, after normalisation."""
    home = tmp_path_factory.mktemp("counts")
    settings = tiny_settings.model_copy(update={"expression_key": None, "embed_keys": []})
    pack(sorted(tiny_source.glob("*.h5ad")), settings, "tiny", home / "pack")
    fit(
        home / "pack",
        tiny_plan,
        NoChange(kind="no_change"),
        seed=0,
        out=home / "model",
        state_dir=home / "state",
        checkpoints_dir=home / "checkpoints",
    )
    return home / "model"
