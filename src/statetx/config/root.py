"""A whole configuration: its sections, the names that must fit together, the table of runs."""

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
"""Names that are directories of their own inside ``results/{dataset}``."""


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
                if not NAME.fullmatch(name) or not name.strip(".") or name in RESERVED:
                    raise ValueError(
                        f"{section}.{name[:120]}: this name cannot be used: it becomes a directory; use "
                        "at most 100 letters, digits and _ . + -, and not "
                        f"{', '.join(sorted(RESERVED))} or dots alone"
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
                    f"evaluation.checkpoints: {checkpoint!r} is never written by models.{name}: its "
                    f"training has {length} steps and keeps every {every}th"
                )

    def _fits_expression(self, name: str, model: PertSets) -> None:
        for run in self.runs():
            key = self.datasets[run.dataset].expression_key
            if run.model == name and key is not None and model.genes is not None:
                raise ValueError(
                    f"models.{name}.genes: data set {run.dataset!r} is modelled in obsm {key!r}, whose "
                    "genes were chosen outside; set its expression_key to null to choose them here"
                )
            if run.model == name and model.gene_decoder is not None:
                known = self.datasets[run.dataset].embed_keys
                if model.embed_key not in known:
                    raise ValueError(
                        f"models.{name}.embed_key: {model.embed_key!r} is none of the embed_keys of data "
                        f"set {run.dataset!r}; {did_you_mean(str(model.embed_key), known)}"
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
                    f"models.{name}.batches: {model.batches!r}, but data set {run.dataset!r} has no "
                    "batches: name their obs column in its batch_col, or set batches to ignored"
                )

    def n_hvg(self, split: str) -> int | None:
        """Number of genes chosen on a split; None: all. All models on it are scored in the same ones.

        Raises
        ------
        ValueError
            Two models on the split want different genes.
        """
        wanted = {}
        for run in self.runs():
            model = self.models[run.model]
            if run.split == split and isinstance(model, PertSets):
                wanted[run.model] = None if model.genes is None else model.genes.n_hvg
        if len(set(wanted.values())) > 1:
            raise ValueError(
                f"models on split {split!r} work in different genes, so that their scores could not be "
                f"compared: {wanted}; give them the same `genes`, or another split of the same settings"
            )
        return next(iter(wanted.values()), None)

    def model(self, name: str) -> Any:
        """The settings of a model, ``{data_root}`` replaced in its path."""
        section = self.models[name]
        path = getattr(section, "perturbation_features_file", None)
        if path is None:
            return section
        rooted = path.replace("{data_root}", self.data_root)
        return section.model_copy(update={"perturbation_features_file": rooted})

    def one_hot(self, split: str) -> bool:
        """Whether a model on a split knows a perturbation by its id only, not by features."""
        return any(
            run.split == split
            and isinstance(model := self.models[run.model], PertSets)
            and model.perturbation_features_file is None
            for run in self.runs()
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
