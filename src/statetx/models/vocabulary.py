"""The labels that a model knows, found in any spelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from statetx.shared.labels import Reading


class Vocabulary:
    """Labels by their meaning.

    Parameters
    ----------
    labels
        Labels as the model spells them.
    reading
        How labels are read.

    Attributes
    ----------
    reading
        How labels are read.
    """

    def __init__(self, labels: Iterable[str], reading: Reading) -> None:
        self._own, self.reading = frozenset(labels), reading
        self._meant: dict[str, list[str]] = {}
        for label in self._own:
            self._meant.setdefault(reading.canonical(label), []).append(label)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Vocabulary:
        """Return the vocabulary of a model from the content of ``model.json``."""
        return cls(meta["perturbations"], Reading.from_settings(meta, str(meta["control"])))

    def find(self, label: str) -> str:
        """Return a label as the model spells it, or the control for aliases of the control.

        The label is returned unchanged if the model knows no label, or several, with its meaning.
        """
        if label in self.reading.controls:
            return self.reading.controls[0]
        same = [] if label in self._own else self._meant.get(self.reading.canonical(label), [])
        return same[0] if len(same) == 1 else label
