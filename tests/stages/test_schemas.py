"""The schemas in the repository are those of the code, and real results fit them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import report_samples

from statetx.stages.schemas import CONTRACTS

HOME = Path(__file__).parents[2] / "workflow" / "schemas"


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_schema_is_that_of_the_code(name: str) -> None:
    path = HOME / f"{name}.schema.json"
    assert path.read_text() == CONTRACTS[name].schema_text(), "run: make docs"


def test_a_verdict_fits_its_schema(tmp_path: Path) -> None:
    path = report_samples.write(tmp_path / "verdict.json", report_samples.verdict())
    schema = json.loads((HOME / "verdict.schema.json").read_text())
    jsonschema.validate(json.loads(path.read_text()), schema)
