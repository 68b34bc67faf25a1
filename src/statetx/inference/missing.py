"""Refuse or fill genes of a model that a file does not contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from statetx.core.errors import ConfigError, DataError, did_you_mean
from statetx.models.model_dir import LoadedModel

RULES = ("error", "0", "control_mean")
"""What happens to missing genes: an error, the value 0, or the mean of the training controls."""
MOST_FILLED = 0.1
"""Largest share of a model's genes that may be filled; more would differ too much from training."""


@dataclass(frozen=True)
class Missing:
    """Missing genes and the values that fill them.

    Attributes
    ----------
    genes
        Names of the k filled genes; empty if nothing is filled.
    place
        int64 [k], their columns among the genes of the model.
    values
        float32 [k], value of each.
    n_genes
        Number of genes of the model.
    rule
        Entry of `RULES`.
    """

    genes: list[str]
    place: np.ndarray
    values: np.ndarray
    n_genes: int
    rule: str

    def filled(self, present: np.ndarray) -> np.ndarray:
        """Add the filled genes to cells.

        Parameters
        ----------
        present
            [n, G - k], values of the other genes, in the order of the model.

        Returns
        -------
        numpy.ndarray
            float32 [n, G]; `present` itself if nothing is filled.
        """
        if not self.genes:
            return present
        out = np.empty((len(present), self.n_genes), dtype=np.float32)
        out[:, np.setdiff1d(np.arange(self.n_genes), self.place)] = present
        out[:, self.place] = self.values
        return out

    def report(self) -> dict[str, Any]:
        """Return the entry for ``uns`` of the output; {} if nothing is filled."""
        if not self.genes:
            return {}
        share = len(self.genes) / self.n_genes
        return {"filled": {"rule": self.rule, "share": share, "genes": self.genes}}


def missing(names: list[str], model: LoadedModel, rule: str, where: str) -> Missing:
    """Return the missing genes with their values, and print a summary.

    Parameters
    ----------
    names
        Genes of the file.
    model
        The model whose genes are needed.
    rule
        Entry of `RULES`; with ``error``, nothing is filled.
    where
        File and matrix, for messages.

    Raises
    ------
    ConfigError
        There is no such rule.
    DataError
        More than `MOST_FILLED` of the genes are missing; or the rule is ``control_mean`` and the
        model does not contain that mean.
    """
    if rule not in RULES:
        raise ConfigError(
            f"--fill-missing is {rule!r}", where="--fill-missing", fix=did_you_mean(rule, RULES)
        )
    present = set(names)
    place = np.array(
        [i for i, name in enumerate(model.genes) if name not in present], dtype=np.int64
    )
    if rule == "error" or not len(place):
        return Missing([], place[:0], np.empty(0, np.float32), len(model.genes), rule)
    genes = [model.genes[i] for i in place.tolist()]
    share = len(genes) / len(model.genes)
    summary = f"{len(genes)} of the model's {len(model.genes)} genes ({share:.1%})"
    if len(genes) > MOST_FILLED * len(model.genes):
        shown = ", ".join(repr(name) for name in genes[:10])
        raise DataError(
            f"{summary} are missing, more than the {MOST_FILLED:.0%} that --fill-missing may fill: "
            f"{shown}",
            where=where,
            fix=f"{did_you_mean(genes[0], names)} Use the same gene names as the model's "
            "genes.txt, or a model of genes that were measured",
        )
    values = np.zeros(len(genes), dtype=np.float32)
    if rule == "control_mean":
        values = _control_mean(model)[place]
    print(
        f"{where}: {summary} are missing and filled with {rule}: {', '.join(genes[:5])}"
        + (", …" if len(genes) > 5 else "")
    )
    return Missing(genes, place, values, len(model.genes), rule)


def _control_mean(model: LoadedModel) -> np.ndarray:
    with np.load(model.path / "golden.npz", allow_pickle=False) as file:
        if "control_mean" not in file:
            raise DataError(
                "the model does not contain the mean of its training controls",
                where=model.path / "golden.npz",
                fix="fill with 0 (--fill-missing 0), or train the model again",
            )
        return np.asarray(file["control_mean"], dtype=np.float32)
