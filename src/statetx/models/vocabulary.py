"""The labels that a model knows, found in whatever spelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from statetx.shared.labels import Reading


class Vocabulary:
    """Labels by what they mean.

    Parameters
    ----------
    labels
        As the model spells them.
    reading
        How they are read.

    Attributes
    ----------
    reading
        As given.
    """

    def __init__(self, labels: Iterable[str], reading: Reading) -> None:
        self._own, self.reading = frozenset(labels), reading
        self._meant: dict[str, list[str]] = {}
        for label in self._own:
            self._meant.setdefault(reading.canonical(label), []).append(label)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Vocabulary:
        """Return the labels of ``model.json``."""
        return cls(meta["perturbations"], Reading.from_settings(meta, str(meta["control"])))

    def find(self, label: str) -> str:
        """Return a label as the model spells it, the control for its aliases.

        It comes back as it is where the model knows no label, or two, of its meaning.
        """
        if label in self.reading.controls:
            return self.reading.controls[0]
        found = [] if label in self._own else self._meant.get(self.reading.canonical(label), [])
        return found[0] if len(found) == 1 else label
