"""Settings of models, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from statetx.config.sections import Section, unit

BASELINES = frozenset(
    {"no_change", "context_mean", "perturbation_mean", "additive", "ridge", "nearest_drug"}
)
"""Kinds of model that a trained model has to beat."""


class ModelSection(Section):
    """What all kinds of model have."""

    kind: str
    frozen: bool = Field(
        False,
        description="keep the trained model as it is: later changes of code or settings are "
        "reported, but do not train it again",
    )


class NoChange(ModelSection):
    """Baseline: the line's control cells."""

    kind: Literal["no_change"] = Field(description="predicts the control cells")


class ContextMean(ModelSection):
    """Baseline: the line's control cells + mean training delta of that line."""

    kind: Literal["context_mean"] = Field(description="control cells + mean delta of the line")


class PerturbationMean(ModelSection):
    """Baseline: control cells + mean delta of that perturbation over training lines."""

    kind: Literal["perturbation_mean"] = Field(
        description="control cells + mean delta of the perturbation"
    )


class Additive(ModelSection):
    """Baseline: control cells + effect of the line + effect of the perturbation, by least squares."""

    kind: Literal["additive"] = Field(
        description="control cells + effect of the line + effect of the perturbation"
    )


class Ridge(ModelSection):
    """Baseline: control cells + ridge regression of training deltas on line, drug and log dose."""

    kind: Literal["ridge"] = Field(
        description="control cells + regression on line, drug and dose; its penalty is chosen by "
        "leaving out training conditions"
    )
    n_components: int | None = Field(
        None,
        ge=1,
        description="regress that many principal components of the training deltas; null: all genes",
        json_schema_extra=unit("components"),
    )


class NearestDrug(ModelSection):
    """Baseline: control cells + what the most similar perturbations did to the line."""

    kind: Literal["nearest_drug"] = Field(
        description="control cells + mean delta, in the line, of the perturbations that act most alike "
        "in other lines"
    )
    k: int = Field(
        5, ge=1, description="neighbours that are averaged", json_schema_extra=unit("perturbations")
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
    attention: Literal["bidirectional", "causal", "causal_rope", "bidirectional_rope", "alone"] = (
        Field(
            "bidirectional",
            description="who sees whom: bidirectional = every cell of a set, no positions; the others "
            "repeat what some released checkpoints compute",
        )
    )


class Training(Section):
    """How long and how fast."""

    max_steps: int = Field(
        40000, ge=1, description="optimiser steps", json_schema_extra=unit("steps")
    )
    batch_size: int = Field(16, ge=1, description="sets per step", json_schema_extra=unit("sets"))
    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(
        0.0, ge=0, description="weight decay of AdamW, of the matrices of linear layers only"
    )
    warmup_steps: int = Field(
        0, ge=0, description="steps in which lr grows to its value", json_schema_extra=unit("steps")
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="lr after the warm-up: as it is, or half a cosine down to 0"
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="keep and measure an average of the weights with this decay per step; 0: none",
        json_schema_extra=unit("per step"),
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="batches whose gradients make one step",
        json_schema_extra=unit("batches"),
    )
    monitor: Literal[
        "val_loss", "val_pearson_delta", "val_discrimination", "val_collapse_ratio"
    ] = Field("val_loss", description="measurement that chooses the best checkpoint")
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after so many validations without a better one; null: never",
        json_schema_extra=unit("validations"),
    )
    collapse_below: float | None = Field(
        None,
        ge=0,
        description="give up when the variance between predicted deltas stays below this share of the "
        "real one for 3 validations; null: never",
        json_schema_extra=unit("share"),
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the network's products; auto: bfloat16 on GPUs, float32 on CPUs. On a CPU with "
        "bfloat16 instructions (AMX), bfloat16 rounds the factors of products only",
    )
    compile: bool = Field(
        False, description="compile the network (torch.compile); minutes at the start"
    )
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


class GeneDecoder(Section):
    """From a predicted embedding to expression."""

    kind: Literal["plain", "residual"] = Field(
        "plain", description="hidden layers, or blocks that add the one before"
    )
    hidden_dims: list[int] = Field(
        [1024, 1024, 512],
        min_length=1,
        description="widths of the hidden layers",
        json_schema_extra=unit("features"),
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="after each of them", json_schema_extra=unit("probability")
    )
    weight: float = Field(1.0, gt=0, description="of its loss beside that of the embedding")


class PertSets(ModelSection):
    """The State-Transition transformer: sets of cells attend to each other."""

    kind: Literal["pertsets"] = Field(description="the set transformer")
    embed_key: str | None = Field(
        None,
        description="matrix the model works in: the data set's expression_key, or with a gene_decoder "
        "one of its embed_keys",
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
    devices: int = Field(
        1,
        ge=1,
        description="GPUs of one machine that share every batch (without GPUs: processes); results "
        "differ in rounding only",
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
    gene_decoder: GeneDecoder | None = Field(
        None, description="decode expression from a predicted embedding; null: no decoder"
    )
    confidence_token: bool = Field(
        False, description="a token that learns the loss of its set (reported by the model)"
    )
    perturbation_features_file: str | None = Field(
        None,
        description="table (CSV, TSV, parquet; first column: label, others: numbers) by which the model "
        "knows perturbations, also such as are never trained; `{data_root}` is replaced; null: by ids",
    )
    batches: Literal["ignored", "encoder", "token"] = Field(
        "ignored",
        description="what the model learns of batches: nothing; an embedding of every cell's batch, which "
        "predictions then need too (State's batch_encoder); or a token from whose output the batch of a "
        "set is told in training (State's use_batch_token; needs sets.within_batch)",
    )
    dropout_per_cell: bool = Field(
        False,
        description="encode the perturbation for every cell of a set in training, as the original does",
    )
    loss: Literal["energy", "sinkhorn", "se", "mse"] = Field(
        "energy",
        description="distance between predicted and real sets; se = energy + 0.01 sinkhorn",
    )
    loss_chunks: int = Field(
        1,
        ge=1,
        description="stretches of features whose losses are averaged",
        json_schema_extra=unit("stretches"),
    )
    regularization: float = Field(
        0.0, ge=0, description="weight of the mean absolute difference to the control"
    )
    backbone: Backbone = Field(Backbone(), description="the transformer")
    training: Training = Field(Training(), description="the optimisation")

    @model_validator(mode="after")
    def _parts_fit(self) -> PertSets:
        if self.backbone.attention.endswith("rope") and self.backbone.head_dim % 2:
            raise ValueError(
                f"backbone.head_dim is {self.backbone.head_dim}: attention with positions needs an even one"
            )
        masks = self.sets.short == "mask"
        if masks and (self.loss not in ("energy", "mse") or self.loss_chunks > 1):
            raise ValueError("sets.short: mask works with loss energy or mse, in one stretch")
        if self.gene_decoder is not None and self.embed_key is None:
            raise ValueError("gene_decoder decodes an embedding: name it in embed_key")
        if self.batches == "token" and not self.sets.within_batch:
            raise ValueError(
                "batches: token tells the one batch of a set: set sets.within_batch to true, or use "
                "batches: encoder, which knows the batch of every cell"
            )
        return self


Model = Annotated[
    NoChange | ContextMean | PerturbationMean | Additive | Ridge | NearestDrug | PertSets,
    Field(discriminator="kind"),
]
