"""A network small enough to be trained in a second."""

from __future__ import annotations

from typing import Any

from statetx.config import PertSets


def small(**training: Any) -> PertSets:
    """PertSets of a few thousand weights."""
    settings = {"max_steps": 6, "batch_size": 4, "lr": 1e-3, "val_freq": 2, "ckpt_every_n_steps": 2}
    changes = {key: training.pop(key) for key in list(training) if key in PertSets.model_fields}
    values = {
        "kind": "pertsets",
        "embed_key": "X_hvg",
        "cell_set_len": 8,
        "hidden_dim": 16,
        "n_encoder_layers": 2,
        "n_decoder_layers": 2,
        "dropout": 0.1,
        "backbone": {
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "intermediate_size": 24,
        },
        "training": {**settings, **training},
        **changes,
    }
    return PertSets.model_validate(values)
