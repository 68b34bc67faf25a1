"""Settings of models, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from statetx.config.sections import Section, unit

BASELINES = frozenset(
    {"no_change", "context_mean", "perturbation_mean", "additive", "ridge", "nearest_drug"}
)
"""Kinds of baseline."""


class ModelSection(Section):
    """Settings that all kinds of model share."""

    kind: str
    frozen: bool = Field(
        False,
        description="keep the trained model: changes of code or settings are only reported",
    )


class NoChange(ModelSection):
    """Baseline: the control cells of the line."""

    kind: Literal["no_change"] = Field(description="control cells of the line, unchanged")


class ContextMean(ModelSection):
    """Baseline: control cells of the line + mean training delta of that line."""

    kind: Literal["context_mean"] = Field(
        description="control cells + mean training delta of the line"
    )


class PerturbationMean(ModelSection):
    """Baseline: control cells + mean delta of that perturbation over training lines."""

    kind: Literal["perturbation_mean"] = Field(
        description="control cells + mean delta of the perturbation over training lines"
    )


class Additive(ModelSection):
    """Baseline: control cells + effects of line and perturbation, fitted by least squares."""

    kind: Literal["additive"] = Field(
        description="control cells + effect of the line + effect of the perturbation, fitted by "
        "least squares"
    )


class Ridge(ModelSection):
    """Baseline: control cells + ridge regression of training deltas on line, drug and log dose."""

    kind: Literal["ridge"] = Field(
        description="control cells + ridge regression on line, drug and log dose; the penalty is "
        "chosen by leaving out training conditions"
    )
    n_components: int | None = Field(
        None,
        ge=1,
        description="number of principal components of the training deltas to predict; null: "
        "predict all genes",
        json_schema_extra=unit("components"),
    )


class NearestDrug(ModelSection):
    """Baseline: control cells + mean delta of the most similar perturbations in the line."""

    kind: Literal["nearest_drug"] = Field(
        description="control cells + mean delta in the line of the perturbations whose effects in "
        "other lines are most similar"
    )
    k: int = Field(
        5,
        ge=1,
        description="number of similar perturbations that are averaged",
        json_schema_extra=unit("perturbations"),
    )


class Backbone(Section):
    """Set transformer with the layout of Llama."""

    num_hidden_layers: int = Field(
        4, ge=1, description="number of transformer layers", json_schema_extra=unit("layers")
    )
    num_attention_heads: int = Field(
        8, ge=1, description="number of attention heads", json_schema_extra=unit("heads")
    )
    head_dim: int = Field(
        32,
        ge=1,
        description="width of an attention head; num_attention_heads x head_dim may differ from "
        "hidden_dim",
        json_schema_extra=unit("features"),
    )
    intermediate_size: int = Field(
        1024,
        ge=1,
        description="width of the gated MLP in a layer",
        json_schema_extra=unit("features"),
    )
    attention: Literal["bidirectional", "causal", "causal_rope", "bidirectional_rope", "alone"] = (
        Field(
            "bidirectional",
            description="which cells attend to each other: `bidirectional` lets every cell attend "
            "to all cells of its set, without positions; the other values reproduce some released "
            "checkpoints",
        )
    )


class Training(Section):
    """Optimisation of a network."""

    max_steps: int = Field(
        40000, ge=1, description="number of optimiser steps", json_schema_extra=unit("steps")
    )
    batch_size: int = Field(16, ge=1, description="sets per batch", json_schema_extra=unit("sets"))
    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="weight decay of AdamW; it acts on the matrices of linear layers only",
    )
    warmup_steps: int = Field(
        0,
        ge=0,
        description="number of first steps in which the learning rate rises to `lr`",
        json_schema_extra=unit("steps"),
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="learning rate after the warm-up: constant, or half a cosine down to 0",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per step of a moving average of the weights, which is evaluated and "
        "saved; 0: no average",
        json_schema_extra=unit("per step"),
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="number of batches whose gradients are accumulated for one step",
        json_schema_extra=unit("batches"),
    )
    monitor: Literal[
        "val_loss", "val_pearson_delta", "val_discrimination", "val_collapse_ratio"
    ] = Field("val_loss", description="metric that selects the best checkpoint")
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after this number of validations without improvement; null: never",
        json_schema_extra=unit("validations"),
    )
    collapse_below: float | None = Field(
        None,
        ge=0,
        description="stop with an error if the variance between predicted deltas is below this "
        "share of the real variance in 3 consecutive validations; null: never",
        json_schema_extra=unit("share"),
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="numeric precision of matrix multiplications; auto: bfloat16 on GPUs, float32 "
        "on CPUs. On a CPU with bfloat16 instructions (AMX), bfloat16 rounds only the factors",
    )
    compile: bool = Field(
        False,
        description="whether to compile the network with torch.compile, which may take minutes at "
        "the start",
    )
    gradient_clip_val: float = Field(
        10.0,
        ge=0,
        description="gradient norm above which gradients are clipped; 0: no clipping",
        json_schema_extra=unit("L2 norm"),
    )
    val_freq: int = Field(
        2000,
        ge=1,
        description="number of steps between validations",
        json_schema_extra=unit("steps"),
    )
    ckpt_every_n_steps: int = Field(
        2000,
        ge=1,
        description="number of steps between saved step checkpoints",
        json_schema_extra=unit("steps"),
    )


class Sets(Section):
    """Sets of cells in an epoch, and the controls of their cells."""

    within_batch: bool = Field(
        False, description="whether all cells of a set come from the same batch"
    )
    short: Literal["replace", "mask", "drop"] = Field(
        "replace",
        description="conditions with fewer cells than a set: repeat cells (`replace`), pad and "
        "mask the set (`mask`), or leave the condition out (`drop`)",
    )
    weights: Literal["size", "sqrt", "uniform"] = Field(
        "size",
        description="number of sets per condition and epoch: proportional to its cells, so that "
        "every cell is used once (`size`), to their square root (`sqrt`), or equal (`uniform`)",
    )
    mix_windows: int = Field(
        16,
        ge=1,
        description="number of neighbouring sets that exchange cells at random in each epoch; 1: "
        "sets are contiguous cells",
        json_schema_extra=unit("sets"),
    )
    controls: Literal["paired", "random"] = Field(
        "paired",
        description="how the controls of a set are drawn: without replacement (`paired`), or "
        "independently (`random`)",
    )
    control_sets: Literal["drawn", "identity", "none"] = Field(
        "drawn",
        description="also train control -> control: other control cells as target (`drawn`), the "
        "same cells (`identity`), or no such sets (`none`)",
    )


class Genes(Section):
    """Genes that are selected on the training cells of each split."""

    n_hvg: int = Field(
        ge=1, description="number of highly variable genes", json_schema_extra=unit("genes")
    )


class GeneDecoder(Section):
    """Network that decodes expression from a predicted embedding."""

    kind: Literal["plain", "residual"] = Field(
        "plain",
        description="`plain`: hidden layers; `residual`: every second hidden layer adds its input "
        "to its output",
    )
    hidden_dims: list[int] = Field(
        [1024, 1024, 512],
        min_length=1,
        description="width of each hidden layer",
        json_schema_extra=unit("features"),
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="dropout after each hidden layer",
        json_schema_extra=unit("probability"),
    )
    weight: float = Field(
        1.0, gt=0, description="weight of the gene loss; the embedding loss has weight 1"
    )


class PertSets(ModelSection):
    """State-Transition transformer, in which the cells of a set attend to each other."""

    kind: Literal["pertsets"] = Field(description="set transformer")
    embed_key: str | None = Field(
        None,
        description="matrix that the model reads and predicts: the data set's expression_key, or "
        "with a gene_decoder one of its embed_keys",
    )
    genes: Genes | None = Field(
        None,
        description="use genes of X that are selected on the training cells of the split; null: "
        "all genes",
    )
    cell_set_len: int = Field(
        256, ge=2, description="number of cells per set", json_schema_extra=unit("cells")
    )
    sets: Sets = Field(Sets(), description="how sets are drawn")
    resident: Literal["auto", "gpu", "ram", "disk"] = Field(
        "auto",
        description="where packed cells are kept in training: in GPU memory, in RAM, or mapped "
        "from disk; auto: GPU if they take less than half of its free memory, else disk",
    )
    devices: int = Field(
        1,
        ge=1,
        description="number of GPUs of one machine that share every batch; without GPUs, number of "
        "processes. Results differ in rounding only",
    )
    hidden_dim: int = Field(
        328, ge=1, description="width of the transformer", json_schema_extra=unit("features")
    )
    n_encoder_layers: int = Field(
        4,
        ge=1,
        description="number of layers in each of the two encoders",
        json_schema_extra=unit("layers"),
    )
    n_decoder_layers: int = Field(
        4,
        ge=1,
        description="number of layers in the output MLP",
        json_schema_extra=unit("layers"),
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="dropout of the encoders and the output MLP",
        json_schema_extra=unit("probability"),
    )
    use_basal_projection: bool = Field(
        True, description="whether the encoder of control cells is an MLP or a single linear layer"
    )
    predict_residual: bool = Field(
        True, description="whether the encoded control is added before the output MLP"
    )
    gene_decoder: GeneDecoder | None = Field(
        None, description="decoder from a predicted embedding to expression; null: no decoder"
    )
    confidence_token: bool = Field(
        False,
        description="whether a token learns to predict the loss of its set, which is then reported",
    )
    perturbation_features_file: str | None = Field(
        None,
        description="table of perturbation features (CSV, TSV, parquet; first column: label, "
        "others: numbers), which also allows perturbations that are not trained; `{data_root}` is "
        "replaced; null: perturbations are known by id only",
    )
    batches: Literal["ignored", "encoder", "token"] = Field(
        "ignored",
        description="use of batches: none (`ignored`); an embedding of every cell's batch, which "
        "predictions need too (`encoder`, State's batch_encoder); or a token that learns to "
        "predict the batch of a set in training (`token`, State's use_batch_token; needs "
        "sets.within_batch)",
    )
    dropout_per_cell: bool = Field(
        False,
        description="whether training encodes the perturbation once per cell, each with its own "
        "dropout, as State does; otherwise once per set",
    )
    loss: Literal["energy", "sinkhorn", "se", "mse"] = Field(
        "energy",
        description="distance between predicted and real sets; se = energy + 0.01 sinkhorn",
    )
    loss_chunks: int = Field(
        1,
        ge=1,
        description="number of blocks of features whose losses are averaged",
        json_schema_extra=unit("blocks"),
    )
    regularization: float = Field(
        0.0,
        ge=0,
        description="weight of the penalty on the mean absolute difference between prediction and "
        "control",
    )
    backbone: Backbone = Field(Backbone(), description="transformer")
    training: Training = Field(Training(), description="optimisation")

    @model_validator(mode="after")
    def _parts_fit(self) -> PertSets:
        if self.backbone.attention.endswith("rope") and self.backbone.head_dim % 2:
            raise ValueError(
                f"backbone.head_dim is {self.backbone.head_dim}: attention with positions needs an "
                "even width"
            )
        masks = self.sets.short == "mask"
        if masks and (self.loss not in ("energy", "mse") or self.loss_chunks > 1):
            raise ValueError(
                "sets.short: mask works only with loss energy or mse, and with loss_chunks 1"
            )
        if self.gene_decoder is not None and self.embed_key is None:
            raise ValueError("gene_decoder decodes an embedding: name the embedding in embed_key")
        if self.batches == "token" and not self.sets.within_batch:
            raise ValueError(
                "batches: token needs sets of a single batch: set sets.within_batch to true, or "
                "use batches: encoder, which reads the batch of every cell"
            )
        return self


Model = Annotated[
    NoChange | ContextMean | PerturbationMean | Additive | Ridge | NearestDrug | PertSets,
    Field(discriminator="kind"),
]
