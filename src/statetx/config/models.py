"""Settings of models, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from statetx.config.sections import Section, unit

BASELINES = frozenset({"no_change", "context_mean", "perturbation_mean"})
"""Kinds of model that a trained model has to beat."""


class NoChange(Section):
    """Baseline: the line's control cells."""

    kind: Literal["no_change"] = Field(description="predicts the control cells")


class ContextMean(Section):
    """Baseline: the line's control cells + mean training delta of that line."""

    kind: Literal["context_mean"] = Field(description="control cells + mean delta of the line")


class PerturbationMean(Section):
    """Baseline: control cells + mean delta of that perturbation over training lines."""

    kind: Literal["perturbation_mean"] = Field(
        description="control cells + mean delta of the perturbation"
    )


class Backbone(Section):
    """The set transformer (Llama layout)."""

    num_hidden_layers: int = Field(4, ge=1, description="layers", json_schema_extra=unit("layers"))
    num_attention_heads: int = Field(
        8, ge=1, description="attention heads", json_schema_extra=unit("heads")
    )
    head_dim: int = Field(
        32,
        ge=1,
        description="width of a head; heads x head_dim may differ from hidden_dim",
        json_schema_extra=unit("features"),
    )
    intermediate_size: int = Field(
        1024, ge=1, description="width of the gated MLP", json_schema_extra=unit("features")
    )
    attention: Literal["bidirectional"] = Field(
        "bidirectional",
        description="who sees whom: bidirectional = every cell of a set, no positions",
    )


class Training(Section):
    """How long and how fast."""

    max_steps: int = Field(
        40000, ge=1, description="optimiser steps", json_schema_extra=unit("steps")
    )
    batch_size: int = Field(16, ge=1, description="sets per step", json_schema_extra=unit("sets"))
    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    gradient_clip_val: float = Field(
        10.0,
        ge=0,
        description="largest gradient norm; 0: no clipping",
        json_schema_extra=unit("L2 norm"),
    )
    val_freq: int = Field(
        2000, ge=1, description="steps between validations", json_schema_extra=unit("steps")
    )
    ckpt_every_n_steps: int = Field(
        2000,
        ge=1,
        description="steps between kept step checkpoints",
        json_schema_extra=unit("steps"),
    )


class Sets(Section):
    """How an epoch is cut into sets, and how a cell finds its control."""

    within_batch: bool = Field(False, description="cells of a set share the batch too")
    short: Literal["replace", "mask", "drop"] = Field(
        "replace",
        description="conditions of fewer cells than a set: repeat their cells, pad and mask, or leave "
        "them out",
    )
    weights: Literal["size", "sqrt", "uniform"] = Field(
        "size",
        description="sets per condition and epoch: by its cells (every cell once), by their square "
        "root, or equal",
    )
    mix_windows: int = Field(
        16,
        ge=1,
        description="neighbouring sets whose cells are mixed anew in each epoch; 1: contiguous cells",
        json_schema_extra=unit("sets"),
    )
    controls: Literal["paired", "random"] = Field(
        "paired", description="controls of a set: without replacement, or independent draws"
    )
    control_sets: Literal["drawn", "identity", "none"] = Field(
        "drawn",
        description="control cells as targets: from other controls, from themselves, or not at all",
    )


class Genes(Section):
    """Genes that are chosen on the training cells of each split."""

    n_hvg: int = Field(
        ge=1, description="number of highly variable genes", json_schema_extra=unit("genes")
    )


class PertSets(Section):
    """The State-Transition transformer: sets of cells attend to each other."""

    kind: Literal["pertsets"] = Field(description="the set transformer")
    embed_key: str | None = Field(
        None, description="matrix the model works in; must be the data set's expression_key"
    )
    genes: Genes | None = Field(
        None, description="work in genes of X chosen on the split's training cells; null: all"
    )
    cell_set_len: int = Field(
        256, ge=2, description="cells per set", json_schema_extra=unit("cells")
    )
    sets: Sets = Field(Sets(), description="how sets are drawn")
    resident: Literal["auto", "gpu", "ram", "disk"] = Field(
        "auto",
        description="where packed cells lie in training: GPU memory, RAM, or mapped from disk; auto: "
        "GPU if they take less than half of its free memory, else disk",
    )
    hidden_dim: int = Field(
        328, ge=1, description="width of the transformer", json_schema_extra=unit("features")
    )
    n_encoder_layers: int = Field(
        4, ge=1, description="layers of the two encoders", json_schema_extra=unit("layers")
    )
    n_decoder_layers: int = Field(
        4, ge=1, description="layers of the output MLP", json_schema_extra=unit("layers")
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="dropout of encoders and output MLP",
        json_schema_extra=unit("probability"),
    )
    use_basal_projection: bool = Field(
        True, description="basal encoder: MLP (true) or one linear layer"
    )
    predict_residual: bool = Field(
        True, description="add the encoded control before the output MLP"
    )
    loss: Literal["energy"] = Field(
        "energy", description="distance between predicted and real sets"
    )
    backbone: Backbone = Field(Backbone(), description="the transformer")
    training: Training = Field(Training(), description="the optimisation")


Model = Annotated[NoChange | ContextMean | PerturbationMean | PertSets, Field(discriminator="kind")]
