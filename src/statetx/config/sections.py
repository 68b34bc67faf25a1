"""The configuration: typed, explained, checked before anything runs.

Every key has its meaning in its ``description``; the JSON schema and the table in
``config/README.md`` are generated from here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from statetx.errors import did_you_mean

NAME = re.compile(r"[A-Za-z0-9_.+-]+")
RESERVED = frozenset({"pack", "simulate", "reference", "genes", "reports"})
"""Names that are directories of their own inside ``results/{dataset}``."""

BASELINES = frozenset({"no_change", "context_mean", "perturbation_mean"})
"""Kinds of model that a trained model has to beat."""


class Section(BaseModel):
    """A section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def changed(self) -> dict[str, Any]:
        """The keys that differ from their default, as JSON values.

        Stages get these as parameters: a key added later, with its default, reruns nothing.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


class Simulate(Section):
    """Planted-truth data: sparse, dose-monotone, partly line-specific effects on counts."""

    n_lines: int = Field(10, ge=1, description="cell lines")
    n_drugs: int = Field(20, ge=1, description="drugs")
    doses: list[float] = Field(
        [0.05, 0.5, 5.0], min_length=1, description="doses of every drug, uM"
    )
    cells_per_condition: int = Field(40, ge=2, description="mean number of cells per condition")
    controls_per_line: int = Field(400, ge=4, description="control cells per line")
    n_genes: int = Field(1000, ge=20, description="genes in X")
    n_hvg: int = Field(400, ge=10, description="genes in obsm X_hvg")
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
        10000.0, gt=0, description="log1p = ln(1 + target_sum * count / total)"
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
    drug_fraction: float = Field(0.2, gt=0, lt=1, description="share of drugs in the test block")
    line_fraction: float = Field(0.2, gt=0, lt=1, description="share of lines in the test block")
    val_drug_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of drugs in validation; 0: none"
    )
    val_line_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of lines in validation; 0: none"
    )
    seed: int = Field(0, description="seed of the draw")


class LineFolds(Section):
    """k disjoint folds over lines: every condition is tested once, in a line never trained on."""

    dataset: str = Field(description="name of a data set")
    generator: Literal["line_folds"] = Field(description="leave lines out")
    k: int = Field(ge=2, description="number of folds; the number of lines: leave one out")
    val: bool = Field(True, description="the lines of the next fold validate")
    seed: int = Field(0, description="seed of the draw")


class PerturbationFolds(Section):
    """k disjoint folds over drugs (all doses): every condition is tested once, its drug unseen."""

    dataset: str = Field(description="name of a data set")
    generator: Literal["perturbation_folds"] = Field(description="leave drugs out")
    k: int = Field(ge=2, description="number of folds")
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

    num_hidden_layers: int = Field(4, ge=1, description="layers")
    num_attention_heads: int = Field(8, ge=1, description="attention heads")
    head_dim: int = Field(
        32, ge=1, description="width of a head; heads x head_dim may differ from hidden_dim"
    )
    intermediate_size: int = Field(1024, ge=1, description="width of the gated MLP")
    attention: Literal["bidirectional"] = Field(
        "bidirectional",
        description="who sees whom: bidirectional = every cell of a set, no positions",
    )


class Training(Section):
    """How long and how fast."""

    max_steps: int = Field(40000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="sets per step")
    lr: float = Field(1e-4, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    gradient_clip_val: float = Field(
        10.0, ge=0, description="largest gradient norm; 0: no clipping"
    )
    val_freq: int = Field(2000, ge=1, description="steps between validations")
    ckpt_every_n_steps: int = Field(2000, ge=1, description="steps between kept step checkpoints")


class PertSets(Section):
    """The State-Transition transformer: sets of cells attend to each other."""

    kind: Literal["pertsets"] = Field(description="the set transformer")
    embed_key: str | None = Field(
        None, description="matrix the model works in; must be the data set's expression_key"
    )
    cell_set_len: int = Field(256, ge=2, description="cells per set")
    hidden_dim: int = Field(328, ge=1, description="width of the transformer")
    n_encoder_layers: int = Field(4, ge=1, description="layers of the two encoders")
    n_decoder_layers: int = Field(4, ge=1, description="layers of the output MLP")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of encoders and output MLP")
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
    seeds: list[int] = Field([0], min_length=1, description="one run per seed")


class Evaluation(Section):
    """How predictions are scored."""

    profile: Literal["full", "minimal"] = Field(
        "full", description="which cell-eval columns are written"
    )
    checkpoints: list[str] = Field(
        ["best"], min_length=1, description="best, last or step=N; the verdict judges the first"
    )
    max_cells: int = Field(
        1500, ge=2, description="largest number of cells per condition, both sides"
    )
    seed: int = Field(
        0, description="seed of subsampling, of the split halves and of the bootstrap"
    )
    n_bootstrap: int = Field(2000, ge=100, description="bootstrap draws behind an interval")


class Prune(Section):
    """Which step checkpoints stay."""

    keep: list[str] = Field(["best", "last"], description="best, last or step=N")
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


class Run(NamedTuple):
    """One model trained on one split with one seed."""

    dataset: str
    split: str
    model: str
    seed: int


class Config(Section):
    """A whole configuration."""

    data_root: str = Field(
        ".", description="replaces `{data_root}` in dataset files and TOML paths"
    )
    datasets: dict[str, Dataset] = Field(min_length=1, description="single-cell data, by name")
    splits: dict[str, Split] = Field(min_length=1, description="hold-outs, by name")
    models: dict[str, Model] = Field(min_length=1, description="models, by name")
    experiments: dict[str, Experiment] = Field(min_length=1, description="comparisons, by name")
    evaluation: Evaluation = Field(Evaluation(), description="how predictions are scored")
    prune: Prune = Field(Prune(), description="which checkpoints stay")
    tracking: Tracking = Field(Tracking(), description="where training curves go")
    report: Report = Field(Report(), description="the page")

    @model_validator(mode="after")
    def _names_fit(self) -> Config:
        for section in ("datasets", "splits", "models", "experiments"):
            for name in getattr(self, section):
                if not NAME.fullmatch(name) or name in RESERVED:
                    raise ValueError(
                        f"{section}.{name}: this name cannot be used: it becomes a directory; use "
                        f"letters, digits and _ . + -, and none of {', '.join(sorted(RESERVED))}"
                    )
        for name, split in self.splits.items():
            _known(split.dataset, self.datasets, f"splits.{name}.dataset")
        for name, experiment in self.experiments.items():
            here = f"experiments.{name}"
            for split_name in experiment.splits:
                _known(split_name, [*self.splits, *self.split_names()], f"{here}.splits")
            for model in experiment.models:
                _known(model, self.models, f"{here}.models")
            homes = {self.split(s)[0].dataset for s in self.folds(experiment.splits)}
            if len(homes) > 1:
                raise ValueError(f"{here}.splits: these belong to different data sets: {homes}")
            if name in self.splits or name in self.split_names():
                raise ValueError(f"{here}: a split has this name too; both would share a directory")
        for name, chosen in self.models.items():
            if chosen.kind == "pertsets":
                self._fits_expression(name, chosen)
        return self

    def _fits_expression(self, name: str, model: PertSets) -> None:
        for run in self.runs():
            key = self.datasets[run.dataset].expression_key
            if run.model == name and model.embed_key != key:
                raise ValueError(
                    f"models.{name}.embed_key: {model.embed_key!r} is not the expression_key of "
                    f"data set {run.dataset!r} ({key!r}); set both to the same matrix"
                )

    def split_names(self) -> list[str]:
        """All split names, folds expanded to ``name.0 … name.{k-1}``."""
        return self.folds(self.splits)

    def folds(self, names: Any) -> list[str]:
        """The given split names with fold generators expanded."""
        out: list[str] = []
        for name in names:
            k = getattr(self.splits.get(name), "k", None)
            out += [name] if k is None else [f"{name}.{fold}" for fold in range(k)]
        return out

    def split(self, name: str) -> tuple[Any, int | None]:
        """The settings of a split and, for ``name.fold``, the number of the fold."""
        if name in self.splits:
            return self.splits[name], None
        base, _, fold = name.rpartition(".")
        return self.splits[base], int(fold)

    def runs(self, experiment: str | None = None) -> list[Run]:
        """Every run of one experiment, or of all, without repeats."""
        chosen = (
            self.experiments if experiment is None else {experiment: self.experiments[experiment]}
        )
        return list(
            dict.fromkeys(
                Run(self.split(split)[0].dataset, split, model, seed)
                for item in chosen.values()
                for split in self.folds(item.splits)
                for model in item.models
                for seed in item.seeds
            )
        )

    def experiment_dataset(self, experiment: str) -> str:
        """The data set that an experiment is about."""
        return self.runs(experiment)[0].dataset


def _known(name: str, options: Any, where: str) -> None:
    if name not in options:
        raise ValueError(f"{where}: no {name!r}; {did_you_mean(name, options)}")
