"""The configuration: typed, explained, checked before anything runs.

Every key has its meaning in its ``description``; the JSON schema and the table in
``config/README.md`` are generated from here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
)

from statetx.errors import did_you_mean

BASELINES = frozenset({"no_change", "context_mean", "perturbation_mean"})
"""Kinds of model that a trained model has to beat."""


def _unit(name: str) -> dict[str, Any]:
    return {"unit": name}


class Section(BaseModel):
    """A section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def changed(self) -> dict[str, Any]:
        """The keys that differ from their default, as JSON values.

        Stages get these as parameters: a key added later, with its default, reruns nothing.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


def _checkpoint(name: str) -> str:
    if name not in ("best", "last") and not re.fullmatch(r"step=[1-9]\d*", name):
        raise ValueError(
            f"{name!r} is no checkpoint; {did_you_mean(name, ['best', 'last', 'step=N'])}"
        )
    return name


Checkpoint = Annotated[str, AfterValidator(_checkpoint)]


class Simulate(Section):
    """Planted-truth data: sparse, dose-monotone, partly line-specific effects on counts."""

    n_lines: int = Field(10, ge=1, description="cell lines", json_schema_extra=_unit("cell lines"))
    n_drugs: int = Field(20, ge=1, description="drugs", json_schema_extra=_unit("drugs"))
    doses: list[float] = Field(
        [0.05, 0.5, 5.0],
        min_length=1,
        description="doses of every drug, uM",
        json_schema_extra=_unit("uM"),
    )
    cells_per_condition: int = Field(
        40, ge=2, description="mean number of cells per condition", json_schema_extra=_unit("cells")
    )
    controls_per_line: int = Field(
        400, ge=4, description="control cells per line", json_schema_extra=_unit("cells")
    )
    n_genes: int = Field(1000, ge=20, description="genes in X", json_schema_extra=_unit("genes"))
    n_hvg: int = Field(
        400, ge=10, description="genes in obsm X_hvg", json_schema_extra=_unit("genes")
    )
    seed: int = Field(0, description="seed of the planted truth and of the cells")


class Dataset(Section):
    """Single-cell data and what its columns mean."""

    files: Literal["simulate"] | list[str] = Field(
        description="`simulate`, or paths and globs of h5ad files; `{data_root}` is replaced"
    )
    simulate: Simulate = Field(Simulate(), description="settings of `files: simulate`")
    pert_col: str = Field("drug_dose", description="obs column with the perturbation label")
    cell_type_key: str = Field("cell_line", description="obs column with the cell line (context)")
    batch_col: str | None = Field(
        "batch", description="obs column with the batch (plate); null: one batch"
    )
    control_pert: str | list[str] = Field(
        description="control label; a list: the first is canonical, the others are aliases of it"
    )
    scale: Literal["counts", "log1p"] = Field(description="what X holds; checked, never guessed")
    target_sum: float = Field(
        10000.0,
        gt=0,
        description="log1p = ln(1 + target_sum * count / total)",
        json_schema_extra=_unit("counts per cell"),
    )
    total_counts_col: str | None = Field(
        None, description="obs column with a cell's total counts; null: row sum over all genes"
    )
    expression_key: str | None = Field(
        None,
        description="obsm matrix (log1p, genes named in uns['hvg_names']) in which all models "
        "predict and are scored; null: X",
    )
    embed_keys: list[str] = Field([], description="further obsm matrices to pack")
    labels_are_genes: bool = Field(
        False, description="a label may name its target gene (CRISPR screens)"
    )

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "simulate" else value


class BlockSplit(Section):
    """Test = some drugs (all doses) x some lines; validation = other drugs x other lines."""

    dataset: str = Field(description="name of a data set")
    generator: Literal["dc_block"] = Field(description="drug x cell-line block")
    drug_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of drugs in the test block",
        json_schema_extra=_unit("share of drugs"),
    )
    line_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of lines in the test block",
        json_schema_extra=_unit("share of lines"),
    )
    val_drug_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of drugs in validation; 0: none",
        json_schema_extra=_unit("share of drugs"),
    )
    val_line_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of lines in validation; 0: none",
        json_schema_extra=_unit("share of lines"),
    )
    seed: int = Field(0, description="seed of the draw")


class LineFolds(Section):
    """k disjoint folds over lines: every condition is tested once, in a line never trained on."""

    dataset: str = Field(description="name of a data set")
    generator: Literal["line_folds"] = Field(description="leave lines out")
    k: int = Field(
        ge=2,
        description="number of folds; the number of lines: leave one out",
        json_schema_extra=_unit("folds"),
    )
    val: bool = Field(True, description="the lines of the next fold validate")
    seed: int = Field(0, description="seed of the draw")


class PerturbationFolds(Section):
    """k disjoint folds over drugs (all doses): every condition is tested once, its drug unseen."""

    dataset: str = Field(description="name of a data set")
    generator: Literal["perturbation_folds"] = Field(description="leave drugs out")
    k: int = Field(ge=2, description="number of folds", json_schema_extra=_unit("folds"))
    val: bool = Field(True, description="the drugs of the next fold validate")
    seed: int = Field(0, description="seed of the draw")


class TomlSplit(Section):
    """A split written by hand or by another tool, in cell-load's TOML."""

    dataset: str = Field(description="name of a data set")
    toml: str = Field(description="path of the TOML file")


def _split_kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return "toml" if "toml" in value else value.get("generator")
    return "toml" if isinstance(value, TomlSplit) else getattr(value, "generator", None)


Split = Annotated[
    Annotated[BlockSplit, Tag("dc_block")]
    | Annotated[LineFolds, Tag("line_folds")]
    | Annotated[PerturbationFolds, Tag("perturbation_folds")]
    | Annotated[TomlSplit, Tag("toml")],
    Discriminator(_split_kind),
]


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

    num_hidden_layers: int = Field(4, ge=1, description="layers", json_schema_extra=_unit("layers"))
    num_attention_heads: int = Field(
        8, ge=1, description="attention heads", json_schema_extra=_unit("heads")
    )
    head_dim: int = Field(
        32,
        ge=1,
        description="width of a head; heads x head_dim may differ from hidden_dim",
        json_schema_extra=_unit("features"),
    )
    intermediate_size: int = Field(
        1024, ge=1, description="width of the gated MLP", json_schema_extra=_unit("features")
    )
    attention: Literal["bidirectional"] = Field(
        "bidirectional",
        description="who sees whom: bidirectional = every cell of a set, no positions",
    )


class Training(Section):
    """How long and how fast."""

    max_steps: int = Field(
        40000, ge=1, description="optimiser steps", json_schema_extra=_unit("steps")
    )
    batch_size: int = Field(16, ge=1, description="sets per step", json_schema_extra=_unit("sets"))
    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    gradient_clip_val: float = Field(
        10.0,
        ge=0,
        description="largest gradient norm; 0: no clipping",
        json_schema_extra=_unit("L2 norm"),
    )
    val_freq: int = Field(
        2000, ge=1, description="steps between validations", json_schema_extra=_unit("steps")
    )
    ckpt_every_n_steps: int = Field(
        2000,
        ge=1,
        description="steps between kept step checkpoints",
        json_schema_extra=_unit("steps"),
    )


class PertSets(Section):
    """The State-Transition transformer: sets of cells attend to each other."""

    kind: Literal["pertsets"] = Field(description="the set transformer")
    embed_key: str | None = Field(
        None, description="matrix the model works in; must be the data set's expression_key"
    )
    cell_set_len: int = Field(
        256, ge=2, description="cells per set", json_schema_extra=_unit("cells")
    )
    hidden_dim: int = Field(
        328, ge=1, description="width of the transformer", json_schema_extra=_unit("features")
    )
    n_encoder_layers: int = Field(
        4, ge=1, description="layers of the two encoders", json_schema_extra=_unit("layers")
    )
    n_decoder_layers: int = Field(
        4, ge=1, description="layers of the output MLP", json_schema_extra=_unit("layers")
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="dropout of encoders and output MLP",
        json_schema_extra=_unit("probability"),
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


class Experiment(Section):
    """What is compared with what."""

    splits: list[str] = Field(
        min_length=1, description="names of splits, all of one data set; folds are pooled"
    )
    models: list[str] = Field(min_length=1, description="names of models")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="one run per seed"
    )


class Evaluation(Section):
    """How predictions are scored."""

    profile: Literal["full", "minimal"] = Field(
        "full", description="which cell-eval columns are written"
    )
    checkpoints: list[Checkpoint] = Field(
        ["best"], min_length=1, description="best, last or step=N; the verdict judges the first"
    )
    max_cells: int = Field(
        1500,
        ge=2,
        description="largest number of cells per condition, both sides",
        json_schema_extra=_unit("cells"),
    )
    seed: int = Field(
        0, description="seed of subsampling, of the split halves and of the bootstrap"
    )
    n_bootstrap: int = Field(
        2000,
        ge=100,
        description="bootstrap draws behind an interval",
        json_schema_extra=_unit("draws"),
    )


class Prune(Section):
    """Which step checkpoints stay."""

    keep: list[Checkpoint] = Field(["best", "last"], description="best, last or step=N")
    mode: Literal["dry-run", "delete"] = Field("dry-run", description="delete only when asked to")


class Tracking(Section):
    """Where training curves go besides metrics.csv."""

    wandb: bool = Field(False, description="log to Weights & Biases (needs the extra `wandb`)")
    project: str = Field("statetx", description="wandb project")
    entity: str | None = Field(None, description="wandb entity")
    tags: list[str] = Field([], description="wandb tags")
    mode: Literal["online", "offline"] = Field("online", description="offline: sync later")


class Report(Section):
    """The page."""

    title: str | None = Field(None, description="title; null: the experiment's name")
