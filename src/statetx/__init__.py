"""Train, predict, score and judge models of how cell populations respond to perturbations."""

from statetx.core.caches import settle as _settle

_settle()
