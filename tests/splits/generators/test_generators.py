"""What holds for every generator on any grid; `cases` draws grids, settings and what is known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conditions import CONTROL
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from statetx.config.splits import GENERATORS, Generated
from statetx.core.errors import SplitError
from statetx.splits.generators.generate import generate
from statetx.splits.grid import Known

LINES = ["A549", "HOP 62", "Hep G2/C3A", "v1.2", 'q"uote', "Ångström", "back\\slash"]
DRUGS = ["Alpha", "Beta 2", "KRAS+MYC", "Eta/x", "d.o.t", "Ünal", "it's", 'say "x"', "Zeta "]
DOSES = (0.05, 0.5, 5.0)
KEYS = ["line", "perturbation"]
ROLES = ["train", "val", "test", "none"]
FEW = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
EVERY = pytest.mark.parametrize("generator", sorted(GENERATORS))


@dataclass(frozen=True)
class Case:
    """One call of `generate`, and what a test needs to know to judge its result."""

    conditions: pd.DataFrame
    settings: Generated
    known: Known = field(default_factory=Known)
    fold: int | None = None

    def plan(self, **changes: Any) -> pd.DataFrame:
        """Return the plan, with some settings changed; cases that do not fit are not looked at."""
        chosen = self.settings.model_copy(update=changes)
        try:
            return generate(self.conditions, chosen, self.fold, self.known)
        except SplitError:
            assume(False)
            raise

    def joined(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a plan with ``drug`` (the compound), ``dose`` and ``n_cells`` of its conditions."""
        real = self.conditions[~self.conditions["is_control"]]
        facts = real.groupby(KEYS, as_index=False).agg(
            {"drug": "first", "dose": "first", "n_cells": "sum"}
        )
        keys = self.known.structures
        facts["drug"] = [keys.get(drug, drug) for drug in facts["drug"]]
        return table.merge(facts, on=KEYS, how="outer", validate="one_to_one")


def of(generator: str, **keys: Any) -> Generated:
    """Return settings of a generator."""
    given = {"dataset": "demo", "generator": generator, **keys}
    return GENERATORS[generator].model_validate(given)


def table_of(rows: list[tuple[str, str, float | None, str, int]]) -> pd.DataFrame:
    """Return a table like ``Store.conditions`` from line, drug, dose, batch and number of cells."""
    table = pd.DataFrame(rows, columns=["line", "drug", "dose", "batch", "n_cells"])
    table["is_control"] = table["drug"] == CONTROL
    spelt = [
        drug if pd.isna(dose) else f"{drug}_{dose:g}"
        for drug, dose in zip(table["drug"], table["dose"], strict=True)
    ]
    return table.assign(perturbation=spelt, dose=table["dose"].astype(float), unit="", row_start=0)


@st.composite
def tables(draw: st.DrawFn, full: bool = False) -> pd.DataFrame:
    """Draw conditions; if not `full`, some are missing, and drugs differ in the doses they have."""
    lines = LINES[: draw(st.integers(2, 6), label="lines")]
    drugs = DRUGS[: draw(st.integers(3, 9), label="drugs")]
    layout = draw(st.sampled_from(["by drug", "by dose", "by line"]), label="plates")
    there = 1.0 if full else draw(st.sampled_from([1.0, 0.8, 0.4]), label="share that is there")
    rng = np.random.default_rng(draw(st.integers(0, 2**16), label="numbers"))
    rows: list[tuple[str, str, float | None, str, int]] = []
    has: dict[str, list[float | None]] = {drug: list(DOSES) for drug in drugs}
    if not full:
        for drug in drugs:
            n = rng.choice([0, 1, 2, 3], p=[0.1, 0.1, 0.2, 0.6])
            has[drug] = sorted(rng.choice(DOSES, n, replace=False).tolist()) or [None]
    for i, line in enumerate(lines):
        rows.append((line, CONTROL, None, "p0", 50))
        for j, drug in enumerate(drugs):
            for k, dose in enumerate(has[drug]):
                plate = {"by drug": j // 2, "by dose": k, "by line": i}[layout]
                again = not full and rng.random() < 0.1  # some wells are repeated on another plate
                rows += [
                    (line, drug, dose, f"p{batch}", int(rng.integers(1, 30)))
                    for batch in range(plate, plate + 1 + again)
                    if (i, j, k) == (0, 0, 0) or rng.random() < there
                ]
    return table_of(rows)


@st.composite
def cases(draw: st.DrawFn, generator: str, full: bool = False) -> Case:
    """Draw a case of a generator; `full` as in `tables`."""
    table = draw(tables(full))
    real = table[~table["is_control"]]
    drugs = sorted(real["drug"].unique())
    kind = GENERATORS[generator]
    given: dict[str, Any] = {"seed": draw(st.integers(0, 99), label="seed")}
    given["min_cells"] = draw(st.sampled_from([0, 0, 12]), label="min_cells")
    for name in sorted(kind.model_fields):
        low, high = (0.15, 0.6) if name != "plate_fraction" else (0.2, 0.5)
        if name.startswith("val_") and name.endswith("fraction"):
            given[name] = draw(st.one_of(st.just(0.0), st.floats(0.02, 0.35)), label=name)
        elif name == "line_fraction" and generator.startswith("dose"):
            given[name] = draw(st.sampled_from([1.0, 0.5]), label=name)
        elif name.endswith("fraction"):
            given[name] = draw(st.floats(low, high), label=name)
    chosen = {"lines": "line", "drugs": "drug", "plates": "batch"}
    for name in sorted(set(chosen) & set(kind.model_fields)):
        there = sorted(real[chosen[name]].unique())
        by_hand = st.lists(st.sampled_from(there), min_size=1, max_size=2, unique=True)
        given[name] = draw(st.one_of(st.none(), by_hand), label=name)
    fold = None
    if "k" in kind.model_fields:
        given |= {"k": draw(st.integers(2, 4), label="k"), "val": draw(st.booleans(), label="val")}
        fold = draw(st.integers(0, given["k"] - 1), label="fold")
    if generator in ("moa_out", "scaffold_out"):
        given["drug_table"] = {"path": "t.csv", "smiles": "smiles"}
        given["group"] = "moa" if generator == "moa_out" else None
    rng = np.random.default_rng(draw(st.integers(0, 2**16), label="compounds"))
    twins = draw(st.booleans(), label="two names of a compound")
    keys = {drug: f"key{rng.integers(len(drugs)) if twins else i}" for i, drug in enumerate(drugs)}
    groups = {key: f"group{rng.integers(4)}" for key in sorted(set(keys.values()))}
    grouped = {drug: groups[key] for drug, key in keys.items() if groups[key] != "group3"}
    if given.get("drugs"):  # two names of one compound are one drug, to be named once
        given["drugs"] = list({keys[drug]: drug for drug in given["drugs"]}.values())
    return Case(table, of(generator, **given), Known(groups=grouped, structures=keys), fold)


@EVERY
@FEW
@given(data=st.data())
def test_every_condition_stands_in_the_plan_once_with_a_role_and_a_reason(
    generator: str, data: st.DataObject
) -> None:
    case = data.draw(cases(generator))
    table = case.plan()
    assert list(table.columns) == ["line", "perturbation", "role", "reason"]
    real = case.conditions.loc[~case.conditions["is_control"], KEYS].drop_duplicates()
    pairs = sorted(map(tuple, real.to_numpy().tolist()))
    assert list(map(tuple, table[KEYS].to_numpy().tolist())) == pairs
    assert set(table["role"]) <= set(ROLES)
    assert table["reason"].str.len().min() > 10


@EVERY
@FEW
@given(data=st.data(), seed=st.integers(0, 99))
def test_the_plan_does_not_depend_on_the_order_of_anything(
    generator: str, data: st.DataObject, seed: int
) -> None:
    case = data.draw(cases(generator))
    table = case.plan()
    pd.testing.assert_frame_equal(table, case.plan())
    backwards = Known(
        groups=dict(reversed(case.known.groups.items())),
        structures=dict(reversed(case.known.structures.items())),
    )
    again = replace(case, conditions=case.conditions.sample(frac=1, random_state=seed))
    pd.testing.assert_frame_equal(table, replace(again, known=backwards).plan())


@EVERY
@FEW
@given(data=st.data(), fewest=st.integers(1, 40))
def test_small_conditions_are_left_out_of_test_and_val_and_still_train(
    generator: str, data: st.DataObject, fewest: int
) -> None:
    case = data.draw(cases(generator))
    every = case.joined(case.plan(min_cells=0))
    made = case.joined(case.plan(min_cells=fewest))
    small = every["role"].isin(["test", "val"]) & (every["n_cells"] < fewest)
    assert list(made["role"]) == list(every["role"].mask(small, "none"))
    assert made.loc[small, "reason"].str.contains(f"fewer than {fewest} cells").all()
    assert list(made.loc[~small, "reason"]) == list(every.loc[~small, "reason"])


@pytest.mark.parametrize("generator", sorted(set(GENERATORS) - {"plate_out"}))
@FEW
@given(data=st.data())
def test_names_of_one_compound_have_one_role(generator: str, data: st.DataObject) -> None:
    """At every dose, where doses differ. A plate holds out wells, whatever is in them."""
    case = data.draw(cases(generator))
    table = case.joined(case.plan(min_cells=0))
    unit = ["line", "drug", "dose"] if generator.startswith("dose") else ["line", "drug"]
    assert table.groupby(unit, dropna=False)["role"].nunique().max() == 1
