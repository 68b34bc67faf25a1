"""Code that each stage depends on, as fingerprints."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from statetx.config import BASELINES
from statetx.core import digests
from statetx.core.fingerprint import code_fingerprint

CODE: dict[str, tuple[str, ...]] = {
    "simulate": ("statetx.data.simulate",),
    "pack": ("statetx.data.pack.pack",),
    # splits.split also checks the plan; with it, every new check would make all splits stale.
    "split": ("statetx.splits.plan_table",),
    "genes": ("statetx.data.store.genes",),
    "train": ("statetx.training.fit", "statetx.training.{way}", "statetx.models.kinds.{kind}"),
    "predict": ("statetx.inference.predict", "statetx.models.kinds.{kind}"),
    "reference": ("statetx.evaluation.held_out.reference",),
    "evaluate": ("statetx.evaluation.held_out.evaluate",),
    "verdict": ("statetx.evaluation.verdict.verdict",),
    "prune": ("statetx.maintenance.prune",),
    "report": ("statetx.reporting.page.page",),
}
"""Root modules of every stage. The fingerprint also covers what these modules import."""


@cache
def code(stage: str, kind: str | None = None) -> str:
    """Return the fingerprint of the code of a stage, as it was at the first call in this process.

    Parameters
    ----------
    stage, kind
        As in `code_now`.
    """
    return code_now(stage, kind)


def code_now(stage: str, kind: str | None = None) -> str:
    """Return the fingerprint of the code that a stage runs at present.

    Parameters
    ----------
    stage
        Name of the stage, a key of `CODE`.
    kind
        Kind of the model; None for stages without a model.
    """
    way = "fit_baseline" if kind in BASELINES else "fit_network"
    roots = [root.format(kind=kind, way=way) for root in CODE[stage] if kind or "{" not in root]
    fingerprint = code_fingerprint(roots)
    if stage == "report":
        templates = Path(__file__).parents[1] / "reporting" / "page" / "templates"
        files = sorted(path for path in templates.iterdir() if path.is_file())
        fingerprint = digests.digest([fingerprint, *(digests.file_digest(path) for path in files)])
    return fingerprint
