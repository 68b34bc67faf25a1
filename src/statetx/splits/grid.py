"""Input of a split: conditions with names and sizes, and facts about drugs and lines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from statetx.core.errors import SplitError, did_you_mean
from statetx.shared import labels
from statetx.shared.label_parsing import in_um
from statetx.shared.labels import PLAIN, WITH_DOSES, Reading, Spellings

LEFT_OUT = "none"
"""Role, in this package only, of a condition that neither trains nor validates nor tests."""


@dataclass(frozen=True)
class Known:
    """Facts about drugs and lines, in addition to their names.

    Attributes
    ----------
    groups
        Mechanism or scaffold of each drug that has one.
    strata
        Per kind of unit (``drugs``, ``lines``): the stratum of each name.
    structures
        First block of the InChIKey of each drug (or its SMILES, if RDKit is not installed).
    effect
        Function that returns the strata of drugs by the strength of their effect in given lines.
    reading
        How labels are read.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    strata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    structures: Mapping[str, str] = field(default_factory=dict)
    effect: Callable[[Collection[str]], dict[str, str]] | None = None
    reading: Reading = WITH_DOSES


@dataclass(frozen=True)
class Grid:
    """The perturbed conditions of a data set.

    Attributes
    ----------
    table
        One row per condition, sorted: ``line, perturbation, drug, dose, n_cells``. The dose is in
        uM if its unit is a concentration. All spellings of a drug have one name.
    batches
        ``line, perturbation, batch``, without repeats.
    compounds
        Name that `table` uses for a drug, for drugs with a different name in `table`.
    reading
        How labels are read.
    """

    table: pd.DataFrame
    batches: pd.DataFrame
    compounds: Mapping[str, str] = field(default_factory=dict)
    reading: Reading = WITH_DOSES

    @classmethod
    def from_conditions(cls, conditions: pd.DataFrame, reading: Reading = WITH_DOSES) -> Grid:
        """Return the perturbed conditions of ``Store.conditions``, with batches merged.

        Parameters
        ----------
        conditions
            ``Store.conditions``.
        reading
            How labels are read.

        Raises
        ------
        SplitError
            There are no perturbed conditions.
        """
        perturbed = conditions[~conditions["is_control"].astype(bool)]
        if perturbed.empty:
            raise SplitError(
                "there are no perturbed cells, only controls", fix="check control_pert"
            )
        keys = ["line", "perturbation"]
        doses = zip(perturbed["dose"].astype(float), perturbed["unit"], strict=True)
        perturbed = perturbed.assign(dose=[in_um(dose, unit)[0] for dose, unit in doses])
        spelt = Spellings(Reading(PLAIN, reading.controls).canonical, perturbed["drug"].unique())
        name_of = {drug: spelt.find(drug) or drug for drug in perturbed["drug"].unique()}
        perturbed["drug"] = perturbed["drug"].map(name_of)
        table = perturbed.groupby(keys, sort=True, as_index=False).agg(
            {"drug": "first", "dose": "first", "n_cells": "sum"}
        )
        batches = perturbed[[*keys, "batch"]].drop_duplicates(ignore_index=True)
        other = {drug: name for drug, name in name_of.items() if drug != name}
        return cls(table, batches, other, reading)

    def by_compound(self, structures: Mapping[str, str]) -> Grid:
        """Return a grid in which all names of a compound are one drug and are held out together.

        Parameters
        ----------
        structures
            Key of the structure by drug.
        """
        first: dict[str, str] = {}
        other = {}
        for drug in self.names("drug"):
            if drug in structures and first.setdefault(structures[drug], drug) != drug:
                other[drug] = first[structures[drug]]
        all_ = {name: other.get(drug, drug) for name, drug in self.compounds.items()} | other
        return Grid(self.table.replace({"drug": other}), self.batches, all_, self.reading)

    def spellings(self, drugs: Iterable[str]) -> Spellings:
        """Return a look-up that finds drug names, without doses, in any spelling."""
        return Spellings(Reading(PLAIN, self.reading.controls).canonical, drugs)

    def names(self, column: str) -> list[str]:
        """Return the sorted values of a column."""
        return sorted(self.table[column].unique())

    def check(self, given: list[str], column: str, key: str) -> list[str]:
        """Return given names as `table` writes them; drugs are found in any spelling.

        Parameters
        ----------
        given
            Names from the settings.
        column
            ``line``, ``drug`` or ``batch``.
        key
            Setting that holds the names, for messages.

        Raises
        ------
        SplitError
            A name is not in the data or is given twice, or no name is given.
        """
        known = self.names(column) if column != "batch" else sorted(self.batches["batch"].unique())
        if column == "drug":
            known += list(self.compounds)
            spelt = self.spellings(known)
            given = [name if name in known else spelt.find(name) or name for name in given]
        for name in given:
            if name not in known:
                raise SplitError(
                    f"no {column} {name!r} in the data",
                    where=key,
                    fix=did_you_mean(labels.parse(name).drug if column == "drug" else name, known),
                )
        if len(set(given)) < len(given) or not given:
            raise SplitError(
                f"{given} are not distinct names", where=key, fix="give each name once"
            )
        return list(dict.fromkeys(self.compounds.get(name, name) for name in given))
