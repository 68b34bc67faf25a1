"""Read a configuration, and say in words what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from statetx.config import datasets, models, sections, splits
from statetx.config.models import BASELINES
from statetx.config.root import Config
from statetx.config.sections import Section
from statetx.errors import ConfigError, did_you_mean


def load(source: str | Path | dict[str, Any]) -> Config:
    """Read and check a configuration.

    Parameters
    ----------
    source
        A YAML file, or what one holds.

    Raises
    ------
    ConfigError
        Unreadable file, unknown key, wrong type, unknown name.
    """
    where = "the configuration" if isinstance(source, dict) else str(source)
    raw: Any = source
    if not isinstance(source, dict):
        try:
            raw = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(
                f"cannot read the configuration: {error}",
                where=where,
                fix="correct the path or the YAML; config/config.yaml is a complete file",
            ) from error
    if not isinstance(raw, dict):
        raise ConfigError("the configuration is not a mapping of sections", where=where)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise explain(error, where) from None


def explain(error: ValidationError, where: str) -> ConfigError:
    """Turn pydantic's list of errors into one message with paths and nearest keys."""
    messages = [_message(item) for item in error.errors()]
    return ConfigError(
        messages[0] if len(messages) == 1 else "\n".join(f"- {text}" for text in messages),
        where=where,
        fix="every key is explained in config/README.md",
    )


def _message(item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    kinds = {kind.__name__ for kind in splits.GENERATORS.values()}
    tags = {*kinds, "toml", "pertsets", *BASELINES}
    shown = ".".join(p for i, p in enumerate(path) if not (i == 2 and p in tags))
    if item["type"] == "extra_forbidden":
        return f"unknown key {shown!r}; {did_you_mean(path[-1], _siblings(path))}"
    if item["type"] == "missing":
        return f"missing key {shown!r}"
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = "kind" if path[0] == "models" else "generator"
        given = item["input"].get(key) if isinstance(item["input"], dict) else None
        options = BASELINES | {"pertsets"} if key == "kind" else {*splits.GENERATORS}
        return f"{shown}.{key}: {given!r} is none; {did_you_mean(given, sorted(options))}"
    return f"{shown}: {text}" if shown else text


def _siblings(path: list[str]) -> list[str]:
    """The keys that are known where the last part of `path` stands."""
    classes: dict[str, type[Section]] = {
        **{kind.__name__: kind for kind in splits.GENERATORS.values()},
        "drug_table": splits.DrugTable,
        "line_table": splits.LineTable,
        "stratify": splits.Stratify,
        "toml": splits.TomlSplit,
        "no_change": models.NoChange,
        "context_mean": models.ContextMean,
        "perturbation_mean": models.PerturbationMean,
        "additive": models.Additive,
        "ridge": models.Ridge,
        "nearest_drug": models.NearestDrug,
        "pertsets": models.PertSets,
        "backbone": models.Backbone,
        "sets": models.Sets,
        "genes": models.Genes,
        "gene_decoder": models.GeneDecoder,
        "training": models.Training,
        "datasets": datasets.Dataset,
        "simulate": datasets.Simulate,
        "experiments": sections.Experiment,
        "evaluation": sections.Evaluation,
        "prune": sections.Prune,
        "tracking": sections.Tracking,
        "report": sections.Report,
    }
    for part in reversed(path[:-1]):
        if part in classes:
            return sorted(classes[part].model_fields)
    return sorted(Config.model_fields)
