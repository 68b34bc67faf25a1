"""Train, predict, score and judge models of how cell populations respond to perturbations.

``statetx.load_model``, ``predict``, ``evaluate``, ``read_verdict`` and ``inspect`` are imported when they are first
used, so that ``import statetx`` loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statetx.core.caches import settle as _settle

if TYPE_CHECKING:
    from statetx.api import Evaluation as Evaluation
    from statetx.api import evaluate as evaluate
    from statetx.api import inspect as inspect
    from statetx.api import load_model as load_model
    from statetx.api import predict as predict
    from statetx.api import read_verdict as read_verdict

    __version__: str

_settle()

__all__ = [
    "Evaluation",
    "__version__",
    "evaluate",
    "inspect",
    "load_model",
    "predict",
    "read_verdict",
]


def __getattr__(name: str) -> Any:
    """Import a function of the interface, or read the version, when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("statetx")
    if name in __all__:
        from statetx import api

        return getattr(api, name)
    raise AttributeError(f"module 'statetx' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the interface."""
    return sorted({*globals(), *__all__})
