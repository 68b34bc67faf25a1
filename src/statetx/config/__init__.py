"""Typed settings of an experiment, read from one YAML file."""

from statetx.config.datasets import Dataset, Simulate
from statetx.config.load import explain, load
from statetx.config.models import (
    BASELINES,
    Additive,
    ContextMean,
    NearestDrug,
    NoChange,
    PertSets,
    PerturbationMean,
    Ridge,
    Sets,
    Training,
)
from statetx.config.root import Config, Run
from statetx.config.sections import Evaluation, Prune, Tracking
from statetx.config.splits import (
    GENERATORS,
    BlockSplit,
    Generated,
    Held,
    LineFolds,
    PerturbationFolds,
    TomlSplit,
)

__all__ = [
    "BASELINES",
    "GENERATORS",
    "Additive",
    "BlockSplit",
    "Config",
    "ContextMean",
    "Dataset",
    "Evaluation",
    "Generated",
    "Held",
    "LineFolds",
    "NearestDrug",
    "NoChange",
    "PertSets",
    "PerturbationFolds",
    "PerturbationMean",
    "Prune",
    "Ridge",
    "Run",
    "Sets",
    "Simulate",
    "TomlSplit",
    "Tracking",
    "Training",
    "explain",
    "load",
]
