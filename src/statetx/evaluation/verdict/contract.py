"""What verdict.json holds."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from statetx.core.contracts import Contract, Number, Part
from statetx.core.documents import Wanted
from statetx.core.errors import ResultsError

Role = Literal["floor", "mean_response", "baseline", "model", "interpolated_duplicate", "ceiling"]
Call = Literal["BETTER", "WORSE", "SAME", "UNDECIDED"]


class DroppedCondition(Part):
    """A condition on which no model is judged."""

    split: str
    line: str
    perturbation: str
    reason: str


class LeftOut(Part):
    """How many conditions one metric leaves out for every model, for one reason."""

    metric: str
    n: int
    reason: str


class CohortSummary(Part):
    """The conditions on which all models are judged."""

    n_conditions: int
    n_lines: int
    n_drugs: int
    dropped: list[DroppedCondition] = Field(default_factory=list)
    undefined: list[LeftOut] = Field(default_factory=list)


class IntervalSettings(Part):
    """How intervals were made; `unit` None: there are none, for `reason`."""

    unit: str | None
    n_bootstrap: int
    level: float = 0.95
    call_level: float = 0.95
    reason: str | None = None


class MetricRange(Part):
    """Dynamic range of a metric: how far a replicate gets from the lower end to a perfect score."""

    fraction: Number = None
    negative: str
    ceiling: Number = None
    interpolated_duplicate: Number = None
    n: int
    undefined: int = 0


class MetricInfo(Part):
    """One metric: what it is called, which way is up, whether it can tell good from poor here."""

    name: str
    label: str
    better: Literal["higher", "lower", "neither"]
    perfect: Number = None
    description: str = ""
    headline: bool = False
    has_range: bool = True
    dynamic_range: MetricRange | None = None
    reason: str | None = None


class MetricValue(Part):
    """Pooled value of one metric, its interval, and how many conditions it is made of.

    `undefined` counts conditions that score 0 because the prediction left them undefined. `explained` is
    the share of the way from floor (0) to ceiling (1).
    """

    mean: Number = None
    low: Number = None
    high: Number = None
    n: int
    undefined: int = 0
    explained: Number = None
    explained_low: Number = None
    explained_high: Number = None
    explained_undefined: int | None = None


class ScoredRow(Part):
    """Scores of a reference, a baseline or a model; a model without seed is the mean of its seeds."""

    name: str
    role: Role
    kind: str | None = None
    seed: int | None = None
    metrics: dict[str, MetricValue]


class Comparison(Part):
    """One model against the best baseline in one metric.

    `difference` is the model minus the baseline, `wins` the share of conditions in which the model is
    better, `p` that of a sign-flip test, `scaled` the difference as a share of ceiling minus baseline.
    """

    model: str
    seed: int | None = None
    metric: str
    against: str | None = None
    difference: Number = None
    low: Number = None
    high: Number = None
    wins: Number = None
    p: Number = None
    n: int
    unit: str | None = None
    call: Call
    reason: str | None = None
    scaled: Number = None
    scaled_reason: str | None = None


class LineMeans(Part):
    """Means of one row's metrics in one cell line of one split."""

    name: str
    role: Role
    seed: int | None = None
    split: str
    line: str
    n: int
    metrics: dict[str, Number]


class StratumComparison(Part):
    """A comparison among conditions of weak, medium or strong real effect."""

    model: str
    seed: int | None = None
    metric: str
    against: str
    stratum: str
    n: int
    difference: Number = None
    low: Number = None
    high: Number = None


class Flag(Part):
    """What a reader should know about a row before believing its numbers."""

    name: str
    seed: int | None = None
    message: str


class Verdict(Contract):
    """Scores, intervals and calls of one experiment: the content of verdict.json."""

    WANTED: ClassVar[Wanted] = Wanted(
        "the verdict", ResultsError, "run the verdict stage again with this version of statetx"
    )
    FORMAT: ClassVar[int] = 1

    experiment: str | None = None
    dataset: str | None = None
    splits: list[str] = Field(default_factory=list)
    checkpoint: str | None = None
    cohort: CohortSummary
    interval: IntervalSettings
    metrics: list[MetricInfo]
    rows: list[ScoredRow]
    comparisons: list[Comparison] = Field(default_factory=list)
    per_line: list[LineMeans] = Field(default_factory=list)
    strata: list[StratumComparison] = Field(default_factory=list)
    flags: list[Flag] = Field(default_factory=list)
    provenance: dict[str, Any] = Field(default_factory=dict)
