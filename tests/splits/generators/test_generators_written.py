"""What a generator makes passes the checks, and the TOML of it gives the same roles back."""

from __future__ import annotations

import tomllib

import pandas as pd
from conditions import CONTROL
from hypothesis import given
from hypothesis import strategies as st
from test_generators import EVERY, FEW, KEYS, cases

from statetx.splits.apply_toml import roles_from_toml
from statetx.splits.findings import Findings
from statetx.splits.lint.lint import Facts
from statetx.splits.split import checked
from statetx.splits.toml import parse, plan_file


@EVERY
@FEW
@given(data=st.data())
def test_the_toml_of_a_plan_gives_the_same_roles(generator: str, data: st.DataObject) -> None:
    case = data.draw(cases(generator))
    table = case.plan()
    made_from = case.settings.model_dump(mode="json", exclude_none=True)
    text = plan_file(table, case.conditions, "demo.v1", "some/pack", made_from).text()
    log = Findings()
    read = parse(tomllib.loads(text), log)
    assert read.made_from == made_from
    again = roles_from_toml(read, "demo.v1", case.conditions, [CONTROL], log)
    assert {item.code for item in log.items} <= {"lines-left-out"}
    found = table[KEYS].merge(again, on=KEYS, how="outer", validate="one_to_one")
    found["role"] = found["role"].fillna("none")  # a line that is left out is in no table
    pd.testing.assert_frame_equal(found[[*KEYS, "role"]], table[[*KEYS, "role"]])
    gone = found["reason"].isna()
    assert log.has("lines-left-out") >= gone.any()


@EVERY
@FEW
@given(data=st.data())
def test_what_a_generator_makes_passes_the_checks(generator: str, data: st.DataObject) -> None:
    """Only that nothing is left to train on, or to test, is for the checks to find."""
    case = data.draw(cases(generator))
    case.plan()
    names = sorted(case.known.structures)
    known = {"listed": names, "structures": case.known.structures, "groups": case.known.groups}
    facts = Facts(controls=(CONTROL,), one_hot=False)
    _, report = checked(case.conditions, case.settings, case.fold, None, known, facts)
    errors = {item.code for item in report.findings.errors}
    assert errors <= {"empty-test", "empty-train"}, report.findings.errors
