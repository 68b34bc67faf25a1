"""Which code each stage depends on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from statetx.config import BASELINES
from statetx.core import digests
from statetx.core.fingerprint import code_fingerprint

CODE: dict[str, tuple[str, ...]] = {
    "simulate": ("statetx.data.simulate",),
    "pack": ("statetx.data.pack.pack",),
    # Not splits.split, which also checks: a new check must not make every split stale.
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
"""Root modules of every stage; what they import inside the package counts too."""


@cache
def code(stage: str, kind: str | None = None) -> str:
    """Fingerprint of the code of a stage when this process first asked for it."""
    return code_now(stage, kind)


def code_now(stage: str, kind: str | None = None) -> str:
    """Fingerprint of the code that a stage runs, for a model of one kind where it has a model."""
    way = "fit_baseline" if kind in BASELINES else "fit_network"
    roots = [root.format(kind=kind, way=way) for root in CODE[stage] if kind or "{" not in root]
    found = code_fingerprint(roots)
    if stage == "report":
        templates = Path(__file__).parents[1] / "reporting" / "page" / "templates"
        files = sorted(path for path in templates.iterdir() if path.is_file())
        found = digests.digest([found, *(digests.file_digest(path) for path in files)])
    return found
