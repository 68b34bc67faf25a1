"""The rules of the house that a program can check."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "statetx"
FLOORS = {
    "caches": 0,
    "errors": 0,
    "checksums": 1,
    "locks": 1,
    "stopping": 1,
    "writes": 2,
    "provenance": 3,
    "documents": 3,
    "spelling": 3,
    "records": 4,
    "labels": 4,
    "expression": 4,
    "moving": 4,
    "tables": 4,
    "config": 4,
    "data": 5,
    "models": 5,
    "maintenance": 5,
    "training": 6,
    "splits": 6,
    "inference": 6,
    "evaluation": 6,
    "source_files": 6,
    "reporting": 7,
    "stages": 8,
    "packed_sources": 9,
    "steps": 10,
    "jobs": 11,
    "outputs": 11,
    "startup": 11,
    "cli_stages": 12,
    "cli_scores": 12,
    "cli": 13,
}
MODULES = sorted(SOURCE.rglob("*.py"))


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "statetx" and len(parts) > 1 and parts[1] in FLOORS:
                yield parts[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "__init__":
        assert set(imported_rooms(path)) <= {"caches"}
        return
    wrong = {
        other for other in imported_rooms(path) if other != room and FLOORS[other] >= FLOORS[room]
    }
    assert wrong == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_stage_has_rule_script_and_command():
    from statetx import stages

    scripts = {path.stem for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert scripts == {*stages.CODE, "compare", "survey", "scatter", "gather"}
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    for stage in stages.CODE:
        assert f'"../workflow/scripts/{stage}.py"' in rules
        assert f"rule {stage}_all:" in rules


def test_every_working_rule_has_log_benchmark_resources_and_environment():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    blocks = re.split(r"\n +(?:rule|checkpoint):|\nrule |\ncheckpoint ", text)[1:]
    working = [block for block in blocks if "script:" in block]
    assert len(working) == 15
    for block in working:
        for directive in ("log:", "benchmark:", "conda:", "mem_mb=", "runtime="):
            assert directive in block, block[:200]


def test_pins_cover_every_dependency():
    import tomllib

    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "envs/constraints.txt").read_text().splitlines()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=\[]", name)[0].lower().replace("_", "-") for name in wanted}
    assert names - pins == set()


def test_continuous_integration_does_what_ci_run_does():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert "make test" in (ROOT / ".ci/run").read_text()


READERS = {
    r"\bread_csv\(": {"evaluation/de_file.py", "training/plot.py", "reporting/runs.py"},
    r"\.to_csv\(": set(),
    r"\byaml\.(safe_)?load\(": {"documents.py"},
    r"\btomllib\.": {"documents.py"},
    r"\bpickle\.load|Unpickler\(": {"training/ranks.py"},
    r"\btorch\.load\(": {"models/checkpoint_file.py", "training/checkpoints.py"},
    r"\.read_text\(\)|\.write_text\([^,()]*\)$": set(),
}
"""Calls that guess at types, encodings or sizes, and the only modules that may make them: with our own
files, or as the one reader that bounds them."""


@pytest.mark.parametrize("pattern", READERS)
def test_files_of_others_are_read_by_one_reader(pattern):
    found = {
        str(path.relative_to(SOURCE))
        for path in MODULES
        if re.search(pattern, path.read_text(), re.MULTILINE)
    }
    assert found <= READERS[pattern]
