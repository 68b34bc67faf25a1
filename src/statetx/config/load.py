"""Reader of configurations, with error messages that name the key, the value and a correction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from statetx.config import datasets, models, sections, splits
from statetx.config.models import BASELINES
from statetx.config.root import Config
from statetx.config.sections import Section
from statetx.core.documents import Wanted, check_size, read_yaml, source_texts
from statetx.core.errors import ConfigError, did_you_mean

WANTED = Wanted(
    "the configuration",
    ConfigError,
    "correct the path or the YAML; config/config.yaml is a complete file",
)


def load(source: str | Path | dict[str, Any]) -> Config:
    """Read and check a configuration.

    Parameters
    ----------
    source
        A YAML file, or its content as a dict.

    Raises
    ------
    ConfigError
        The file cannot be read, or contains an unknown key, a wrong type or an unknown name.
    """
    where = "the configuration" if isinstance(source, dict) else str(source)
    raw: Any = source
    if not isinstance(source, dict):
        raw = read_yaml(source, WANTED)
    if not isinstance(raw, dict):
        raise ConfigError("the configuration is not a mapping of sections", where=where)
    try:
        check_size(raw)  # Snakemake reads configurations without a limit of their size
        return Config.model_validate(raw)
    except ValidationError as error:
        raise explain(
            error, where, {} if isinstance(source, dict) else source_texts(source)
        ) from None
    except ValueError as error:
        raise WANTED.error(error, where) from error


def explain(
    error: ValidationError, where: str, texts: Mapping[tuple[str, ...], str] = MappingProxyType({})
) -> ConfigError:
    """Turn pydantic's errors into one message with paths, values and nearest keys.

    Parameters
    ----------
    error
        The error of pydantic.
    where
        The file, for the message.
    texts
        Values as written in the file, from `documents.source_texts`.
    """
    first = {tuple(_place(item)): item for item in reversed(error.errors())}
    # If a value of a list is wrong, pydantic also reports that the list is not text: left out.
    shown = [
        item
        for place, item in reversed(first.items())
        if not any(place == other[: len(place)] and len(other) > len(place) for other in first)
    ]
    messages = [_message(item, texts) for item in shown]
    return ConfigError(
        messages[0] if len(messages) == 1 else "\n".join(f"- {text}" for text in messages),
        where=where,
        fix="every key is explained in config/README.md",
    )


def _message(item: Any, texts: Mapping[tuple[str, ...], str]) -> str:
    path, place = [str(part) for part in item["loc"]], _place(item)
    shown = ".".join(place)
    if item["type"] == "extra_forbidden":
        return f"unknown key {shown!r}; {did_you_mean(path[-1], _siblings(path))}"
    if item["type"] == "missing":
        return f"missing key {shown!r}"
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = "kind" if path[0] == "models" else "generator"
        given = item["input"].get(key) if isinstance(item["input"], dict) else None
        options = BASELINES | {"pertsets"} if key == "kind" else {*splits.GENERATORS}
        return f"{shown}.{key}: unknown {key} {given!r}; {did_you_mean(given, sorted(options))}"
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] != "value_error":
        text = _wrong_value(item, text, texts.get(tuple(place)))
    return f"{shown}: {text}" if shown else text


def _place(item: Any) -> list[str]:
    """Return the keys above a value, without pydantic's names of kinds and types."""
    kinds = {kind.__name__ for kind in splits.GENERATORS.values()}
    tags = {*kinds, "toml", "pertsets", *BASELINES}
    path = [str(part) for part in item["loc"]]
    return [p for i, p in enumerate(path) if not (i == 2 and p in tags) and not _is_type(p)]


def _is_type(part: str) -> bool:
    """Return whether a part of a path is pydantic's name for one of several allowed types."""
    return part in ("str", "[key]") or part.startswith(("list[", "literal["))


def _wrong_value(item: Any, text: str, written: str | None) -> str:
    """Return the message for a value of a wrong type."""
    value, wants_text = item["input"], item["type"] == "string_type" or "list[str]" in item["loc"]
    if isinstance(value, dict | list | tuple):
        return f"{text}, not {'a mapping' if isinstance(value, dict) else 'a list'}"
    if wants_text and (value is None or isinstance(value, bool | int | float | date)):
        return _unquoted(value, written)
    if isinstance(value, str) and item["type"].startswith("int_") and _is_number(value):
        return f"{value!r} is text in YAML; write all digits of the number, as in 100000"
    return f"{text}, not {value!r}"


def _unquoted(value: Any, written: str | None) -> str:
    """Return the message for text without quotes that YAML reads as another type."""
    if written is None:
        usual = {True: "yes", False: "NO", None: "null"}
        known = value is None or isinstance(value, bool)
        hint = {
            False: " (YAML reads NO, no and off as false)",
            True: " (YAML reads YES, yes and on as true)",
        }
        also = hint.get(value, "") if isinstance(value, bool) else ""
        return (
            f'{value} is not text{also}; write it in quotes: "{usual[value] if known else value}"'
        )
    kinds = {int: "the number", float: "the number", date: "the date"}
    read = f"{kinds.get(type(value), '')} {value}".strip() if written else "nothing"
    if not written:
        return 'no value is given; for an empty text write ""'
    return f'{written} is read as {read}, not as text; write it in quotes: "{written}"'


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _siblings(path: list[str]) -> list[str]:
    """Return the valid keys of the section that contains the last part of `path`."""
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
