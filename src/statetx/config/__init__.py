"""The configuration: typed sections and their reader."""

from statetx.config.load import explain, load
from statetx.config.root import Config, Run
from statetx.config.sections import (
    BASELINES,
    BlockSplit,
    ContextMean,
    Dataset,
    Evaluation,
    LineFolds,
    NoChange,
    PertSets,
    PerturbationFolds,
    PerturbationMean,
    Prune,
    Simulate,
    TomlSplit,
    Tracking,
    Training,
)

__all__ = [
    "BASELINES",
    "BlockSplit",
    "Config",
    "ContextMean",
    "Dataset",
    "Evaluation",
    "LineFolds",
    "NoChange",
    "PertSets",
    "PerturbationFolds",
    "PerturbationMean",
    "Prune",
    "Run",
    "Simulate",
    "TomlSplit",
    "Tracking",
    "Training",
    "explain",
    "load",
]
