"""How many units a generator draws, when it refuses, and that draws keep proportions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generators import FEW, KEYS, Case, cases, of, table_of

from statetx.config.splits import GENERATORS
from statetx.core.errors import SplitError
from statetx.splits.generators.draw import ordered
from statetx.splits.generators.generate import generate
from statetx.splits.grid import Known

Numbers = tuple[int, int]


def wanted(share: float, val: float, n: int, rest: int = 1) -> Numbers | None:
    """Return how many of n units test and validate, each within one of its share; None: too few."""
    test = int(np.floor(share * n + 0.5 + 1e-9))
    held = (test, max(1, int(np.floor(val * n + 0.5 + 1e-9))) if val else 0)
    return held if 0 < test < n and sum(held) + rest <= n else None


def expected(case: Case) -> dict[str, Numbers | None]:
    """Return, by the unit that is drawn, how many of a full grid test and validate."""
    made = case.settings
    name = made.generator
    real = case.conditions[~case.conditions["is_control"]]
    n = {
        "line": real["line"].nunique(),
        "drug": real["drug"].map(case.known.structures).nunique(),
        "batch": real["batch"].nunique(),
    }
    if name in ("dc_block", "both_out"):
        rest = int(name == "both_out")
        both = made.val_drug_fraction > 0 and made.val_line_fraction > 0
        return {
            "line": wanted(made.line_fraction, made.val_line_fraction * both, n["line"], rest),
            "drug": wanted(made.drug_fraction, made.val_drug_fraction * both, n["drug"], rest),
        }
    if name == "pair_random":
        return {"pair": wanted(made.fraction, made.val_fraction, n["line"] * n["drug"])}
    if name in ("line_folds", "perturbation_folds"):
        unit = "line" if name == "line_folds" else "drug"
        size = n[unit] / made.k
        fits = size >= 1 and not (made.val and made.k == 2)
        return {unit: (int(size), int(size) if made.val else 0) if fits else None}
    if name == "plate_out":
        share = len(made.plates) / n["batch"] if made.plates else made.plate_fraction
        return {"batch": wanted(share, made.val_plate_fraction, n["batch"])}
    if name == "line_out":
        share = len(made.lines) / n["line"] if made.lines else made.line_fraction
        return {"line": wanted(share, made.val_line_fraction, n["line"])}
    if name == "context_fewshot":
        share = len(made.lines) / n["line"] if made.lines else made.line_fraction
        kept = wanted(made.keep_fraction, made.val_fraction, n["drug"])
        return {
            "line": wanted(share, 0, n["line"]),
            "drug of a line": None if kept is None else (n["drug"] - sum(kept), kept[1]),
        }
    share = len(made.drugs) / n["drug"] if getattr(made, "drugs", None) else made.drug_fraction
    found = {"drug": wanted(share, made.val_drug_fraction, n["drug"], rest=0)}
    if name == "drug_out":
        found = {"drug": wanted(share, made.val_drug_fraction, n["drug"])}
    elif made.line_fraction < 1:
        found["line"] = wanted(made.line_fraction, 0, n["line"])
    return found


GROUPED = {"moa_out", "scaffold_out"}
ONE_DRAW_OF_LINES = {"context_fewshot", "dose_interpolate", "dose_extrapolate"}


@pytest.mark.parametrize("generator", sorted(set(GENERATORS) - GROUPED))
@FEW
@given(data=st.data())
def test_shares_are_met_within_one_unit_or_refused(generator: str, data: st.DataObject) -> None:
    case = data.draw(cases(generator, full=True))
    case = replace(case, settings=case.settings.model_copy(update={"min_cells": 0}))
    numbers = expected(case)
    if None in numbers.values():
        with pytest.raises(SplitError, match=r"too few|rounds to zero|folds"):
            generate(case.conditions, case.settings, case.fold, case.known)
        return
    table = case.joined(generate(case.conditions, case.settings, case.fold, case.known))
    wells = case.conditions[~case.conditions["is_control"]].drop_duplicates(KEYS)
    table = table.merge(wells[[*KEYS, "batch"]], on=KEYS)  # on a full grid, one plate for each
    table["pair"] = table.groupby(["line", "drug"]).ngroup()
    test_lines = set(table.loc[table["role"] == "test", "line"])
    for unit, found in numbers.items():
        for role, number in zip(("test", "val"), found, strict=True):
            held = table[table["role"] == role]
            if unit == "drug of a line":
                assert set(held.groupby("line")["drug"].nunique()) == ({number} - {0})
            elif unit == "line" and generator in ONE_DRAW_OF_LINES:
                assert held.empty or set(held["line"]) == test_lines
                assert len(test_lines) == found[0]
            elif generator.endswith("folds"):
                assert held[unit].nunique() - number in ((0, 1) if number else (0,))
            else:
                assert held[unit].nunique() == number


@pytest.mark.parametrize("generator", sorted(GROUPED))
@FEW
@given(data=st.data())
def test_groups_meet_the_shares_within_the_largest_group_or_are_refused(
    generator: str, data: st.DataObject
) -> None:
    case = data.draw(cases(generator, full=True))
    made, keys = case.settings, case.known.structures
    n = len(set(keys.values()))
    members = Counter(
        dict(sorted((keys[drug], group) for drug, group in case.known.groups.items())).values()
    )
    table = case.joined(case.plan(min_cells=0))
    share = {"test": made.drug_fraction, "val": made.val_drug_fraction}
    for role in ("test", "val"):
        found = table.loc[table["role"] == role, "drug"].nunique()
        assert abs(found - share[role] * n) <= max(members.values())
        assert found > 0 or share[role] == 0


def test_groups_that_hold_fewer_drugs_than_are_to_be_tested_are_refused() -> None:
    grid = table_of([(f"L{i}", f"Drug{j:02d}", 1.0, "p0", 10) for i in range(2) for j in range(20)])
    table = {"path": "t.csv"}
    made = of("moa_out", group="moa", drug_table=table, drug_fraction=0.5, val_drug_fraction=0)
    with pytest.raises(SplitError, match="do not give 10 test drugs"):
        generate(grid, made, None, Known(groups={"Drug00": "a", "Drug01": "b"}))


# ---------------------------------------------------------------------------------------------
# strata


def proportionate(taken: list[str], every: list[str], strata: dict[str, str]) -> bool:
    """Whether a part holds its share of every stratum, to within two."""
    share, n = len(taken) / len(every), Counter(strata[name] for name in every)
    found = Counter(strata[name] for name in taken)
    return all(abs(found[name] - share * size) <= 2 for name, size in n.items())


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    single=st.sampled_from([0, 0, 30]),
    seed=st.integers(0, 999),
    share=st.floats(0.05, 0.6),
)
def test_any_stretch_of_a_draw_holds_every_stratum_in_proportion(
    sizes: list[int], single: int, seed: int, share: float
) -> None:
    strata = {f"{i}-{j}": f"s{i}" for i, n in enumerate([*sizes, *[1] * single]) for j in range(n)}
    order = ordered(list(strata), seed, "drug", strata)
    assert sorted(order) == sorted(strata)
    n = round(share * len(order))
    for start in (0, n):
        assert proportionate(order[start : start + n], order, strata)


def test_a_seed_means_the_same_draw_everywhere() -> None:
    names = list("abcdefgh")
    assert ordered(names, 0, "drug") == list("cdghbeaf")
    assert ordered(names[::-1], 0, "drug") == ordered(names, 0, "drug")
    assert len({tuple(ordered(names, seed, "drug")) for seed in range(20)}) == 20
    assert ordered(names, 0, "drug") != ordered(names, 0, "line")


@pytest.mark.parametrize("n", [2, 5])
def test_every_name_is_as_likely_to_be_drawn_with_strata_as_without(n: int) -> None:
    strata = {"lone": "a"} | {f"other{i}": "b" for i in range(n)}
    first = Counter(ordered(list(strata), seed, "drug", strata)[0] for seed in range(400))
    assert first["lone"] == pytest.approx(400 / (n + 1), abs=5 * (400 / (n + 1)) ** 0.5)


STRATIFIED = [
    (name, what)
    for name, kind in sorted(GENERATORS.items())
    for what in ("drugs", "lines")
    if what in kind.draws
]


@pytest.mark.parametrize(("generator", "what"), STRATIFIED)
@settings(FEW, max_examples=8)
@given(
    n=st.integers(12, 24),
    seed=st.integers(0, 99),
    share=st.floats(0.2, 0.5),
    val=st.sampled_from([0, 0.1, 0.2]),
)
def test_strata_are_held_out_in_proportion(
    generator: str, what: str, n: int, seed: int, share: float, val: float
) -> None:
    drugs = [f"D{i:02d}" for i in range(n if what == "drugs" else 5)]
    lines = [f"L{i:02d}" for i in range(n if what == "lines" else 4)]
    doses = (0.1, 1.0, 10.0) if generator.startswith("dose") else (1.0,)
    grid = table_of([(line, drug, x, "p", 9) for line in lines for drug in drugs for x in doses])
    names, unit = (drugs, "drug") if what == "drugs" else (lines, "line")
    drawn = np.random.default_rng(seed).choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2])
    strata = dict(zip(names, drawn.tolist(), strict=True))
    keys = GENERATORS[generator].model_fields
    fractions = {name: share for name in keys if name.endswith("fraction")}
    fractions |= {name: val for name in fractions if name.startswith("val")}
    folds = {"k": 4} if "k" in keys else {}
    made = of(generator, stratify={what: "column"}, seed=seed, **fractions, **folds)
    case = Case(grid, made, Known(strata={what: strata}), 1 if folds else None)
    table = case.joined(case.plan())
    parts = [table]
    if generator == "context_fewshot" and what == "drugs":  # every such line draws on its own
        parts = [part for _, part in table.groupby("line") if "test" in set(part["role"])]
    for part in parts:
        for role in ("test", "val"):
            held = part[part["role"] == role]
            if generator == "pair_random":
                assert proportionate(held[unit].tolist(), part[unit].tolist(), strata)
            elif role == "test" or not (generator.startswith("dose") and what == "lines"):
                taken, every = held[unit].unique().tolist(), part[unit].unique().tolist()
                assert proportionate(taken, every, strata)


def test_random_pairs_keep_the_proportions_of_lines_and_drugs_together() -> None:
    lines, drugs = [f"L{i}" for i in range(6)], [f"D{i:02d}" for i in range(20)]
    grid = table_of([(line, drug, 1.0, "p", 9) for line in lines for drug in drugs])
    by_line = {line: "ab"[i % 2] for i, line in enumerate(lines)}
    by_drug = {drug: "xy"[i < 4] for i, drug in enumerate(drugs)}
    made = of("pair_random", stratify={"lines": "tissue", "drugs": "moa"})
    table = Case(grid, made, Known(strata={"lines": by_line, "drugs": by_drug})).plan()
    drug = table["perturbation"].str.partition("_")[0].map(by_drug)
    counts = (
        table["role"].eq("test").groupby([table["line"].map(by_line), drug]).agg(["sum", "size"])
    )
    assert (abs(counts["sum"] - 0.2 * counts["size"]) <= 2).all()


def test_pairs_whose_names_run_into_each_other_are_two_pairs() -> None:
    """`L1` + `1x` and `L11` + `x` are the same letters."""
    grid = table_of([(line, drug, 1.0, "p", 9) for line in ("L1", "L11") for drug in ("x", "1x")])
    roles = set()
    for seed in range(40):
        table = generate(grid, of("pair_random", fraction=0.25, val_fraction=0, seed=seed))
        assert (table["role"] == "test").sum() == 1
        roles.add(tuple(table["role"]))
    assert len(roles) == 4


def test_effects_are_measured_in_lines_that_only_train() -> None:
    grid = table_of([(f"L{i}", f"D{j:02d}", 1.0, "p", 9) for i in range(8) for j in range(18)])
    asked: list[set[str]] = []

    def effect(lines: Collection[str]) -> dict[str, str]:
        asked.append(set(lines))
        return {f"D{j:02d}": ("weak", "middle", "strong")[j % 3] for j in range(18)}

    for generator in ("dc_block", "both_out", "context_fewshot"):
        asked.clear()
        made = of(generator, stratify={"drugs": "effect"})
        table = generate(grid, made, None, Known(effect=effect))
        held = set(table.loc[table["role"].isin(["test", "val"]), "line"])
        assert asked
        assert all(lines and not lines & held for lines in asked)
