"""What each generator holds out: no test condition is learnt from, by its own definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_generators import EVERY, FEW, KEYS, Case, cases, of, table_of

from statetx.config.splits import Folds
from statetx.core.errors import SplitError
from statetx.splits.generators.generate import generate
from statetx.splits.grid import Known


def values(table: pd.DataFrame, column: str, *roles: str) -> set[str]:
    return set(table.loc[table["role"].isin(roles), column])


def disjoint(*sets: set[str]) -> bool:
    return len(set().union(*sets)) == sum(map(len, sets))


def one_role(table: pd.DataFrame, *unit: str) -> bool:
    return bool((table.groupby(list(unit))["role"].nunique() <= 1).all())


def nearest(share: float, n: int) -> int:
    return int(np.floor(share * n + 0.5 + 1e-9))


def dc_block(case: Case, table: pd.DataFrame) -> None:
    for role in ("test", "val"):  # all doses of such a drug in such a line, and nothing else
        lines, drugs = values(table, "line", role), values(table, "drug", role)
        inside = table["line"].isin(lines) & table["drug"].isin(drugs)
        assert (inside == (table["role"] == role)).all()
    assert disjoint(values(table, "line", "test"), values(table, "line", "val"))
    assert disjoint(values(table, "drug", "test"), values(table, "drug", "val"))


def pair_random(case: Case, table: pd.DataFrame) -> None:
    assert one_role(table, "line", "drug")


def context_fewshot(case: Case, table: pd.DataFrame) -> None:
    held, made = values(table, "line", "test"), case.settings
    assert values(table, "line", "val") <= held
    n = table["line"].nunique()
    assert held == set(made.lines) if made.lines else len(held) == nearest(made.line_fraction, n)
    assert one_role(table, "line", "drug")
    for _, part in table[table["line"].isin(held)].groupby("line"):
        by_role = part.groupby("role")["drug"].nunique()
        keep, val = (nearest(x, by_role.sum()) for x in (made.keep_fraction, made.val_fraction))
        assert by_role["train"] == keep
        assert by_role.get("val", 0) == (max(1, val) if made.val_fraction else 0)


def line_out(case: Case, table: pd.DataFrame) -> None:
    assert one_role(table, "line")
    assert case.settings.lines is None or values(table, "line", "test") == set(case.settings.lines)


def drug_out(case: Case, table: pd.DataFrame) -> None:
    assert one_role(table, "drug")
    if case.settings.drugs is not None:
        named = {case.known.structures.get(drug, drug) for drug in case.settings.drugs}
        assert values(table, "drug", "test") == named


def both_out(case: Case, table: pd.DataFrame) -> None:
    for unit in ("line", "drug"):
        assert disjoint(*(values(table, unit, role) for role in ("train", "val", "test")))
    for role in ("train", "val", "test"):  # only what mixes the roles of drug and line is left out
        lines, drugs = values(table, "line", role), values(table, "drug", role)
        inside = table["line"].isin(lines) & table["drug"].isin(drugs)
        assert set(table.loc[inside, "role"]) <= {role}


def dose_out(case: Case, table: pd.DataFrame) -> None:
    middle = case.settings.generator == "dose_interpolate"
    doses = {drug: np.unique(part.dropna()) for drug, part in table.groupby("drug")["dose"]}
    chosen = {drug: found[len(found) // 2 if middle else -1] for drug, found in doses.items()
              if len(found) >= 2 + middle}  # fmt: skip
    held = table[table["role"] != "train"]
    assert set(held["role"]) <= {"test", "val"}
    assert set(held["drug"]) <= set(chosen)
    assert list(held["dose"]) == [chosen[drug] for drug in held["drug"]]
    # That dose has one role in all chosen lines, which are the same for all drugs.
    assert one_role(held, "drug")
    lines = set(held["line"]) if case.settings.line_fraction < 1 else set(table["line"])
    is_held = table["drug"].isin(set(held["drug"])) & table["line"].isin(lines)
    is_held &= table["dose"] == table["drug"].map(chosen)
    assert (is_held == (table["role"] != "train")).all()


def plate_out(case: Case, table: pd.DataFrame) -> None:
    roles = table.set_index(KEYS)["role"]
    wells = case.conditions[~case.conditions["is_control"]]
    role = wells[KEYS].apply(tuple, axis=1).map(roles)
    plates = {name: set(wells.loc[role == name, "batch"]) for name in ("train", "val", "test")}
    # Each test condition is on a plate that neither training nor validation has.
    test = plates["test"] - plates["train"] - plates["val"]
    assert (wells["batch"].isin(test) | (role != "test")).groupby(role).any().all()
    on_test = wells[wells["batch"].isin(test)][KEYS].apply(tuple, axis=1)
    assert set(on_test) == set(roles.index[roles == "test"])
    on_val = wells[wells["batch"].isin(plates["val"] - plates["train"])][KEYS].apply(tuple, axis=1)
    assert set(roles.index[roles == "val"]) <= set(on_val)
    if case.settings.plates is not None:
        named = wells[wells["batch"].isin(case.settings.plates)][KEYS].apply(tuple, axis=1)
        assert set(roles.index[roles == "test"]) == set(named)


def group_out(case: Case, table: pd.DataFrame) -> None:
    keys, groups = case.known.structures, case.known.groups
    of = {keys[drug]: group for drug, group in groups.items()}
    table = table.assign(group=table["drug"].map(of))
    assert one_role(table.dropna(subset=["group"]), "group")
    assert set(table.loc[table["group"].isna(), "role"]) <= {"train"}


def folds(case: Case, table: pd.DataFrame) -> None:
    made = case.settings
    assert isinstance(made, Folds)
    unit = "line" if made.generator == "line_folds" else "drug"
    assert one_role(table, unit)
    tables = [case.joined(replace(case, fold=fold).plan(min_cells=0)) for fold in range(made.k)]
    tested = [values(found, unit, "test") for found in tables]
    assert disjoint(*tested)
    assert set().union(*tested) == set(table[unit])
    sizes = list(map(len, tested))
    assert max(sizes) - min(sizes) <= 1
    for fold, found in enumerate(tables):
        following = tested[(fold + 1) % made.k] if made.val else set()
        assert values(found, unit, "val") == following


CHECKS: dict[str, Callable[[Case, pd.DataFrame], None]] = {
    "dc_block": dc_block,
    "pair_random": pair_random,
    "context_fewshot": context_fewshot,
    "line_out": line_out,
    "drug_out": drug_out,
    "both_out": both_out,
    "dose_interpolate": dose_out,
    "dose_extrapolate": dose_out,
    "plate_out": plate_out,
    "moa_out": group_out,
    "scaffold_out": group_out,
    "line_folds": folds,
    "perturbation_folds": folds,
}


@EVERY
@FEW
@given(data=st.data())
def test_nothing_leaks_by_the_definition_of_the_generator(
    generator: str, data: st.DataObject
) -> None:
    case = data.draw(cases(generator))
    table = case.joined(case.plan(min_cells=0))
    assert ("none" in set(table["role"])) <= (generator == "both_out")
    CHECKS[generator](case, table)


GRID = table_of(
    [
        (f"L{i}", f"Drug{j}", dose, f"p{j}", 10)
        for i in range(5)
        for j in range(10)
        for dose in (0.05, 0.5, 5.0)
    ]
)


@pytest.mark.parametrize(
    ("generator", "dose"), [("dose_interpolate", 0.5), ("dose_extrapolate", 5.0)]
)
def test_one_dose_of_two_drugs_is_tested_in_every_line(generator: str, dose: float) -> None:
    table = Case(GRID, of(generator)).plan()
    held = table[table["role"] == "test"]
    assert len(held) == 2 * 5
    assert held["perturbation"].str.endswith(f"_{dose:g}").all()


def test_a_condition_on_a_test_plate_and_on_others_is_tested() -> None:
    twice = pd.concat([GRID, GRID[GRID["batch"] == "p1"].assign(batch="p2")])
    for plate in ("p1", "p2"):
        table = Case(twice, of("plate_out", plates=[plate], val_plate_fraction=0)).plan()
        test = set(table.loc[table["role"] == "test", "perturbation"].str.partition("_")[0])
        assert test == ({"Drug1"} if plate == "p1" else {"Drug1", "Drug2"})


def test_every_held_out_line_draws_its_own_drugs() -> None:
    table = Case(GRID, of("context_fewshot", lines=["L1", "L2", "L3"])).plan()
    kept = [
        frozenset(part.loc[part["role"] == "train", "perturbation"])
        for line, part in table.groupby("line")
        if line in ("L1", "L2", "L3")
    ]
    assert len(set(kept)) == 3


def test_new_drugs_do_not_redraw_the_lines_and_new_lines_not_the_drugs() -> None:
    fewer_drugs = GRID[~GRID["drug"].isin(["Drug3", "Drug4"])]
    fewer_lines = GRID[GRID["line"] != "L3"]
    for seed in range(5):
        chosen = of("dc_block", seed=seed)
        whole, other = (generate(grid, chosen) for grid in (GRID, fewer_drugs))
        assert values(whole, "line", "test") == values(other, "line", "test")
        whole, other = (
            Case(grid, chosen).joined(generate(grid, chosen)) for grid in (GRID, fewer_lines)
        )
        assert values(whole, "drug", "test") == values(other, "drug", "test")


def test_two_names_of_a_compound_in_two_groups_do_not_split_a_group() -> None:
    """`Drug1` = `Drug2`, one of them in no group, or in another one: they are held out together."""
    structures = {f"Drug{i}": f"key{max(i, 2)}" for i in range(1, 10)}
    for second in ({}, {"Drug1": "b"}):
        groups = {"Drug2": "a", "Drug3": "a", "Drug4": "b", "Drug5": "c", **second}
        for seed in range(8):
            chosen = of("moa_out", seed=seed, group="moa", drug_table={"path": "t.csv"})
            try:
                table = generate(GRID, chosen, None, Known(groups, structures=structures))
            except SplitError:
                continue
            drug = table["perturbation"].str.partition("_")[0]
            for name in ("a", "b"):
                members = drug.isin({key for key, group in groups.items() if group == name})
                assert table.loc[members, "role"].nunique() == 1, (second, seed, name)
