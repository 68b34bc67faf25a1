"""Whole configuration: its sections, the checks across sections, the table of runs."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from statetx.config.datasets import Dataset
from statetx.config.models import Model, PertSets
from statetx.config.sections import Evaluation, Experiment, Prune, Report, Section, Tracking
from statetx.config.splits import Split
from statetx.core.errors import did_you_mean

NAME = re.compile(r"[A-Za-z0-9_.+-]{1,100}")
RESERVED = frozenset({"pack", "simulate", "reference", "genes", "reports", "all"})
"""Names of other directories inside ``results/{dataset}``."""


class Run(NamedTuple):
    """Training of one model on one split with one seed."""

    dataset: str
    split: str
    model: str
    seed: int


class Config(Section):
    """Whole configuration file."""

    data_root: str = Field(
        ".", description="text that replaces `{data_root}` in paths of files, such as h5ad and TOML"
    )
    datasets: dict[str, Dataset] = Field(min_length=1, description="data sets, by name")
    splits: dict[str, Split] = Field(min_length=1, description="splits, by name")
    models: dict[str, Model] = Field(min_length=1, description="models and baselines, by name")
    experiments: dict[str, Experiment] = Field(min_length=1, description="comparisons, by name")
    evaluation: Evaluation = Field(Evaluation(), description="how predictions are scored")
    prune: Prune = Field(Prune(), description="which step checkpoints are kept")
    tracking: Tracking = Field(Tracking(), description="whether training curves are sent to wandb")
    report: Report = Field(Report(), description="HTML page")

    @model_validator(mode="after")
    def _names_fit(self) -> Config:
        for section in ("datasets", "splits", "models", "experiments"):
            for name in getattr(self, section):
                if not NAME.fullmatch(name) or not name.strip(".") or name in RESERVED:
                    raise ValueError(
                        f"{section}.{name[:120]}: this name cannot be used for a directory; use "
                        "at most 100 letters, digits and _ . + -, but not only dots and not "
                        f"{', '.join(sorted(RESERVED))}"
                    )
        for name, split in self.splits.items():
            _known(split.dataset, self.datasets, f"splits.{name}.dataset")
        for name, experiment in self.experiments.items():
            where = f"experiments.{name}"
            for split_name in experiment.splits:
                _known(split_name, [*self.splits, *self.split_names()], f"{where}.splits")
            for model in experiment.models:
                _known(model, self.models, f"{where}.models")
            data = {self.split(s)[0].dataset for s in self.folds(experiment.splits)}
            if len(data) > 1:
                raise ValueError(f"{where}.splits: these belong to different data sets: {data}")
            if name in self.splits or name in self.split_names():
                raise ValueError(
                    f"{where}: a split has this name too; both would share a directory"
                )
        for name, chosen in self.models.items():
            if chosen.kind == "pertsets":
                self._fits_expression(name, chosen)
                self._has_batches(name, chosen)
                self._is_written(name, chosen)
        for split_name in {run.split for run in self.runs()}:
            self.n_hvg(split_name)
        return self

    def _is_written(self, name: str, model: PertSets) -> None:
        length, every = model.training.max_steps, model.training.ckpt_every_n_steps
        steps = [c for c in self.evaluation.checkpoints if c.startswith("step=")]
        for checkpoint in steps:
            step = int(checkpoint.removeprefix("step="))
            if step > length or step % every:
                raise ValueError(
                    f"evaluation.checkpoints: {checkpoint!r} is never written by models.{name}: "
                    f"its training has {length} steps and saves a checkpoint every {every} steps"
                )

    def _fits_expression(self, name: str, model: PertSets) -> None:
        for run in self.runs():
            key = self.datasets[run.dataset].expression_key
            if run.model == name and key is not None and model.genes is not None:
                raise ValueError(
                    f"models.{name}.genes: data set {run.dataset!r} is modelled in obsm {key!r}, "
                    "whose genes are fixed; set its expression_key to null to select genes on each "
                    "split"
                )
            if run.model == name and model.gene_decoder is not None:
                known = self.datasets[run.dataset].embed_keys
                if model.embed_key not in known:
                    raise ValueError(
                        f"models.{name}.embed_key: {model.embed_key!r} is not in the embed_keys of "
                        f"data set {run.dataset!r}; {did_you_mean(str(model.embed_key), known)}"
                    )
            elif run.model == name and model.embed_key != key:
                raise ValueError(
                    f"models.{name}.embed_key: {model.embed_key!r} is not the expression_key of "
                    f"data set {run.dataset!r} ({key!r}); set both to the same matrix"
                )

    def _has_batches(self, name: str, model: PertSets) -> None:
        for run in self.runs():
            known = model.batches == "ignored" or self.datasets[run.dataset].batch_col is not None
            if run.model == name and not known:
                raise ValueError(
                    f"models.{name}.batches: {model.batches!r}, but data set {run.dataset!r} has "
                    "no batches: name their obs column in its batch_col, or set batches to ignored"
                )

    def n_hvg(self, split: str) -> int | None:
        """Return the number of genes that are selected on a split, or None for all genes.

        All models on a split are scored on the same genes.

        Parameters
        ----------
        split
            Name of the split.

        Raises
        ------
        ValueError
            Two models on the split have different settings of genes.
        """
        wanted = {}
        for run in self.runs():
            model = self.models[run.model]
            if run.split == split and isinstance(model, PertSets):
                wanted[run.model] = None if model.genes is None else model.genes.n_hvg
        if len(set(wanted.values())) > 1:
            raise ValueError(
                f"models on split {split!r} work in different genes, so their scores cannot be "
                f"compared: {wanted}; give them the same `genes`, or use a second split with the "
                "same settings"
            )
        return next(iter(wanted.values()), None)

    def model(self, name: str) -> Any:
        """Return the settings of a model, with ``{data_root}`` replaced in its path."""
        section = self.models[name]
        path = getattr(section, "perturbation_features_file", None)
        if path is None:
            return section
        rooted = path.replace("{data_root}", self.data_root)
        return section.model_copy(update={"perturbation_features_file": rooted})

    def one_hot(self, split: str) -> bool:
        """Return whether any network on a split knows perturbations by id, not by features."""
        return any(
            run.split == split
            and isinstance(model := self.models[run.model], PertSets)
            and model.perturbation_features_file is None
            for run in self.runs()
        )

    def split_names(self) -> list[str]:
        """Return the names of all splits, with folds expanded to ``name.0 … name.{k-1}``."""
        return self.folds(self.splits)

    def folds(self, names: Any) -> list[str]:
        """Return the given names of splits, with folds expanded to ``name.0 … name.{k-1}``."""
        out: list[str] = []
        for name in names:
            k = getattr(self.splits.get(name), "k", None)
            out += [name] if k is None else [f"{name}.{fold}" for fold in range(k)]
        return out

    def split(self, name: str) -> tuple[Any, int | None]:
        """Return the settings of a split and the number of its fold, or None without folds."""
        if name in self.splits:
            return self.splits[name], None
        base, _, fold = name.rpartition(".")
        return self.splits[base], int(fold)

    def runs(self, experiment: str | None = None) -> list[Run]:
        """Return every run of an experiment without repeats; None: of all experiments."""
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
        """Return the name of the data set of an experiment."""
        return self.runs(experiment)[0].dataset


def _known(name: str, options: Any, where: str) -> None:
    if name not in options:
        raise ValueError(f"{where}: {name!r} does not exist; {did_you_mean(name, options)}")
