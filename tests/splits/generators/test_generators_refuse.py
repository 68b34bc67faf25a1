"""Settings that do not fit the data, and settings that mean nothing, are refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from conditions import CONTROL
from pydantic import TypeAdapter, ValidationError
from test_generators import of, table_of

from statetx.config.splits import GENERATORS, Generated, Split
from statetx.core.errors import SplitError
from statetx.splits.generators.generate import generate
from statetx.splits.grid import Known

GRID = table_of(
    [(f"L{i}", CONTROL, None, "p0", 50) for i in range(5)]
    + [
        (f"L{i}", f"Drug{j}", dose, f"p{j}", 10)
        for i in range(5)
        for j in range(6)
        for dose in (0.05, 0.5, 5.0)
    ]
)
GROUPS = Known(groups={f"Drug{j}": f"g{j}" for j in range(6)})
TABLE = {"path": "drugs.csv", "smiles": "smiles"}


def case(generator: str, **keys: Any) -> Generated:
    """Return settings of a generator with what it needs."""
    needs: dict[str, dict[str, Any]] = {
        "moa_out": {"drug_table": TABLE, "group": "moa"},
        "scaffold_out": {"drug_table": TABLE},
        "line_folds": {"k": 3},
        "perturbation_folds": {"k": 3},
    }
    return of(generator, **{**needs.get(generator, {}), **keys})


def refusal(settings: Generated, known: Known = GROUPS, fold: int | None = None) -> SplitError:
    with pytest.raises(SplitError) as caught:
        generate(GRID, settings, fold, known)
    assert caught.value.fix
    return caught.value


SHARES = [
    ("dc_block", "drug_fraction"),
    ("dc_block", "line_fraction"),
    ("pair_random", "fraction"),
    ("context_fewshot", "line_fraction"),
    ("context_fewshot", "keep_fraction"),
    ("line_out", "line_fraction"),
    ("drug_out", "drug_fraction"),
    ("both_out", "drug_fraction"),
    ("both_out", "line_fraction"),
    ("dose_interpolate", "drug_fraction"),
    ("dose_interpolate", "line_fraction"),
    ("dose_extrapolate", "drug_fraction"),
    ("dose_extrapolate", "line_fraction"),
    ("plate_out", "plate_fraction"),
    ("moa_out", "drug_fraction"),
    ("scaffold_out", "drug_fraction"),
]


@pytest.mark.parametrize(("generator", "key"), SHARES)
def test_a_share_that_rounds_to_nothing(generator: str, key: str) -> None:
    error = refusal(case(generator, **{key: 0.01}))
    assert "0.01 of" in str(error)
    assert "rounds to zero" in str(error)
    assert error.where == key
    least = float(str(error.fix).removeprefix("use at least "))
    generate(GRID, case(generator, **{key: least}), None, GROUPS)  # what it says is enough


def test_every_share_of_test_units_is_looked_at() -> None:
    keys = {
        (name, key)
        for name, kind in GENERATORS.items()
        for key in kind.model_fields
        if key.endswith("fraction") and not key.startswith("val_")
    }
    assert keys == set(SHARES)


@pytest.mark.parametrize(
    ("generator", "keys"),
    [
        ("dc_block", {"line_fraction": 0.9}),
        ("dc_block", {"drug_fraction": 0.8, "val_drug_fraction": 0.3}),
        ("pair_random", {"fraction": 0.7, "val_fraction": 0.3}),
        ("context_fewshot", {"line_fraction": 0.95}),
        ("context_fewshot", {"keep_fraction": 0.7, "val_fraction": 0.3}),
        ("line_out", {"line_fraction": 0.8}),
        ("line_out", {"lines": ["L0", "L1", "L2", "L3"]}),
        ("drug_out", {"drug_fraction": 0.9}),
        ("both_out", {"line_fraction": 0.6, "val_line_fraction": 0.4}),
        ("both_out", {"drug_fraction": 0.5, "val_drug_fraction": 0.5}),
        ("dose_interpolate", {"drug_fraction": 0.9, "val_drug_fraction": 0.3}),
        ("plate_out", {"plate_fraction": 0.9}),
        ("plate_out", {"plates": [f"p{i}" for i in range(6)]}),
    ],
)
def test_too_few_units(generator: str, keys: dict[str, Any]) -> None:
    error = refusal(case(generator, **keys))
    assert "too few" in str(error)
    assert "fraction" in str(error.where)


@pytest.mark.parametrize(
    ("generator", "key", "named", "near"),
    [
        ("line_out", "lines", ["L0", "L9"], "L"),
        ("context_fewshot", "lines", ["l1"], "L1"),
        ("drug_out", "drugs", ["Dug3"], "Drug"),
        ("drug_out", "drugs", ["Drug3_0.5"], "Drug"),
        ("drug_out", "drugs", [CONTROL], ""),
        ("plate_out", "plates", ["plate1"], ""),
    ],
)
def test_names_that_are_not_in_the_data(
    generator: str, key: str, named: list[str], near: str
) -> None:
    error = refusal(case(generator, **{key: named}))
    assert repr(named[-1]) in str(error)
    assert error.where == key
    assert near in str(error.fix)


@pytest.mark.parametrize(
    ("generator", "key", "named"),
    [
        ("line_out", "lines", ["L1", "L1"]),
        ("context_fewshot", "lines", []),
        ("drug_out", "drugs", ["Drug1", "Drug2", "Drug1"]),
        ("drug_out", "drugs", []),
        ("plate_out", "plates", ["p1", "p1"]),
        ("plate_out", "plates", []),
    ],
)
def test_names_that_stand_there_twice_or_not_at_all(
    generator: str, key: str, named: list[str]
) -> None:
    error = refusal(case(generator, **{key: named}))
    assert "not distinct names" in str(error)
    assert error.where == key


def test_both_names_of_a_compound_may_be_listed() -> None:
    known = Known(structures={"Drug1": "same", "Drug2": "same"})
    for named in (["Drug1"], ["Drug2"], ["Drug1", "Drug2"]):
        table = generate(GRID, of("drug_out", drugs=named), None, known)
        test = table.loc[table["role"] == "test", "perturbation"]
        assert set(test.str.partition("_")[0]) == {"Drug1", "Drug2"}


def test_plates_that_every_condition_is_on() -> None:
    twice = GRID.assign(batch="p0")
    twice = twice.merge(twice.assign(batch="p1"), how="outer")
    with pytest.raises(SplitError, match="nothing is left to train on"):
        generate(twice, of("plate_out", plates=["p0"], val_plate_fraction=0))
    with pytest.raises(SplitError, match="rounds to zero"):
        generate(GRID.assign(batch=""), of("plate_out"))


@pytest.mark.parametrize(
    ("generator", "doses"),
    [("dose_interpolate", (0.5, 5.0)), ("dose_extrapolate", (0.5,)), ("dose_extrapolate", ())],
)
def test_drugs_without_enough_doses(generator: str, doses: tuple[float, ...]) -> None:
    rows = [
        (f"L{i}", f"Drug{j}", dose, "p0", 10)
        for i in range(3)
        for j in range(4)
        for dose in doses or (None,)
    ]
    with pytest.raises(SplitError, match=r"no drug has (two|three) doses"):
        generate(table_of(rows), of(generator))


@pytest.mark.parametrize("groups", [{}, {"Drug0": "g"}, dict.fromkeys(GROUPS.groups, "one")])
def test_groups_that_cannot_be_divided(groups: dict[str, str]) -> None:
    error = refusal(case("moa_out"), Known(groups=groups))
    assert "groups of 6 drugs" in str(error)


@pytest.mark.parametrize("generator", ["line_folds", "perturbation_folds"])
def test_folds_that_cannot_be_made(generator: str) -> None:
    assert "folds are too many for" in str(refusal(case(generator, k=7), fold=0))
    assert "nothing trains" in str(refusal(case(generator, k=2), fold=0))
    for fold in (None, -1, 3):
        assert "no fold" in str(refusal(case(generator), fold=fold))


@pytest.mark.parametrize("generator", ["dc_block", "both_out", "context_fewshot"])
def test_effects_that_nothing_can_measure(generator: str) -> None:
    error = refusal(case(generator, stratify={"drugs": "effect"}))
    assert error.where == "stratify.drugs"


@pytest.mark.parametrize("generator", sorted(GENERATORS))
def test_only_controls(generator: str) -> None:
    bare = GRID[GRID["is_control"]]
    with pytest.raises(SplitError, match="only controls"):
        generate(bare, case(generator), 0, GROUPS)


# ---------------------------------------------------------------------------------------------
# settings

DRAW_DRUGS = {"dc_block", "pair_random", "context_fewshot", "drug_out", "both_out"}
DRAW_DRUGS |= {"dose_interpolate", "dose_extrapolate", "perturbation_folds"}
DRAW_LINES = {"dc_block", "pair_random", "context_fewshot", "line_out", "both_out", "line_folds"}
DRAW_LINES |= {"dose_interpolate", "dose_extrapolate"}
TRAINING_LINES = {"dc_block", "context_fewshot", "both_out"}


@pytest.mark.parametrize("generator", sorted(GENERATORS))
def test_strata_are_for_what_is_drawn(generator: str) -> None:
    for what, draws in (("drugs", DRAW_DRUGS), ("lines", DRAW_LINES)):
        if generator in draws:
            keys = {"line_fraction": 0.5} if generator.startswith("dose") else {}
            made = case(generator, stratify={what: "column"}, **keys)
            assert getattr(made.stratify, what) == "column"
        else:
            with pytest.raises(ValidationError, match=rf"{generator} does not draw {what}"):
                case(generator, stratify={what: "column"})


@pytest.mark.parametrize("generator", sorted(DRAW_DRUGS))
def test_effects_are_strata_only_where_some_lines_just_train(generator: str) -> None:
    if generator in TRAINING_LINES:
        assert case(generator, stratify={"drugs": "effect"}).stratify.drugs == "effect"
    else:
        with pytest.raises(ValidationError, match=f"effect cannot be used with {generator}"):
            case(generator, stratify={"drugs": "effect"})


@pytest.mark.parametrize(
    ("generator", "keys", "message"),
    [
        ("dc_block", {"line_table": {"path": "lines.csv"}}, "name a column in stratify.lines"),
        ("dc_block", {"drug_fraction": 0}, "greater than 0"),
        ("dc_block", {"drug_fraction": 1}, "less than 1"),
        ("dc_block", {"val_drug_fraction": -0.1}, "greater than or equal to 0"),
        ("dc_block", {"fraction": 0.2}, "Extra inputs"),
        ("dc_block", {"min_cells": -1}, "greater than or equal to 0"),
        ("dc_block", {"controls": "none"}, "'shared' or 'partition'"),
        ("dose_interpolate", {"line_fraction": 0}, "greater than 0"),
        ("line_folds", {"k": 1}, "greater than or equal to 2"),
        ("moa_out", {"drug_table": None}, "needs a drug_table"),
        ("moa_out", {"group": None}, "moa_out needs group"),
        ("scaffold_out", {"drug_table": {"path": "drugs.csv"}}, "needs drug_table.smiles"),
        ("scaffold_out", {"group": "moa"}, "group"),
        ("context_fewshot", {"lines": ["L1"], "stratify": {"lines": "x"}}, "stratify.lines"),
        ("dose_extrapolate", {"stratify": {"lines": "x"}}, "stratify.lines"),
    ],
)
def test_settings_that_mean_nothing(generator: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        case(generator, **keys)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        case("dc_block").seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("generator", sorted(GENERATORS))
def test_the_name_of_the_generator_finds_its_settings(generator: str) -> None:
    made = case(generator)
    given = made.model_dump(mode="json", exclude_defaults=True)
    assert given["generator"] == generator
    assert TypeAdapter(Split).validate_python(given) == made


def test_an_unknown_generator() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Split).validate_python({"dataset": "demo", "generator": "dc_blok"})
