"""The rules of the house that a program can check."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "statetx"
FLOORS: dict[str, list[list[str]]] = {
    "": [
        ["core"],
        ["shared"],
        ["config", "maintenance"],
        ["models", "data"],
        ["splits", "inference", "evaluation", "training"],
        ["reporting"],
        ["stages"],
        ["cli", "api"],
        ["__main__"],
    ],
    "data": [["h5ad", "store"], ["inspection", "sets", "simulate"], ["pack", "loader"]],
    "evaluation": [
        ["numerics"],
        ["scores"],
        ["cell_eval"],
        ["held_out", "standalone", "verdict"],
        ["selftest", "de"],
    ],
    "models": [
        ["network", "predictor", "vocabulary", "weights_file"],
        ["baselines", "imported"],
        ["kinds"],
        ["golden"],
        ["model_dir", "pertsets", "losses", "arc"],
    ],
    "reporting": [
        ["numbers"],
        ["verdict_rows"],
        ["verdict_view"],
        ["figures"],
        ["page", "terminal"],
    ],
    "splits": [
        ["findings", "grid"],
        ["toml"],
        ["compounds", "generators", "apply_toml"],
        ["lint", "plan_table", "sources"],
        ["split"],
        ["lint_file"],
    ],
    "training": [
        ["task", "processes", "launch"],
        ["loop"],
        ["inputs"],
        ["fit_network", "fit_baseline"],
        ["fit"],
    ],
}
"""What each room holds, file or room, from the lowest floor up: imports point down.

Rooms that are not listed hold files only; in these, imports make no circle.
"""
MOST_FILES = 12
MODULES = sorted(SOURCE.rglob("*.py"))
PATHS = {
    ".".join(("statetx", *path.relative_to(SOURCE).with_suffix("").parts)): path
    for path in MODULES
    if path.name != "__init__.py"
}


def imported(path):
    """Modules of the package that a module imports, anywhere in its text."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name in PATHS)


ARROWS = {name: sorted({*imported(path)} - {name}) for name, path in PATHS.items()}


def floor_of(room, module):
    """Floor of a module in a room that holds it, or None: the room has no floors."""
    inside = module.removeprefix(".".join(filter(None, ("statetx", room))) + ".")
    first = inside.split(".")[0]
    return next((i for i, names in enumerate(FLOORS[room]) if first in names), None), first


@pytest.mark.parametrize("room", FLOORS)
def test_imports_point_down(room):
    prefix = ".".join(filter(None, ("statetx", room))) + "."
    upward = []
    for module, others in ARROWS.items():
        if not module.startswith(prefix):
            continue
        own, name = floor_of(room, module)
        assert own is not None, f"{module} has no floor"
        for other in others:
            if other.startswith(prefix):
                floor, theirs = floor_of(room, other)
                if theirs != name and floor >= own:
                    upward.append(f"{module} -> {other}")
    assert upward == []


def test_imports_make_no_circle():
    from graphlib import TopologicalSorter

    tuple(TopologicalSorter(ARROWS).static_order())


def test_rooms_can_be_surveyed():
    rooms = {path.parent for path in MODULES}
    sizes = {room: sum(p.name != "__init__.py" for p in room.glob("*.py")) for room in rooms}
    assert {str(room): n for room, n in sizes.items() if n > MOST_FILES} == {}


def test_tests_mirror_the_rooms():
    home = ROOT / "tests"
    apart = {"benchmarks", "fuzz", "helpers", "workflow"}
    rooms = {path.parent.relative_to(home) for path in home.rglob("test_*.py")}
    assert {room for room in rooms if room.parts[:1] and room.parts[0] not in apart} <= {
        path.parent.relative_to(SOURCE) for path in MODULES
    }


def test_the_package_starts_with_nothing():
    names = {*imported(SOURCE / "__init__.py")}
    assert names <= {"statetx.core.caches", "statetx.api"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_stage_has_rule_script_and_command():
    from statetx.stages import fingerprints

    scripts = {path.stem for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert scripts == {*fingerprints.CODE, "compare", "survey", "scatter", "gather"}
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    for stage in fingerprints.CODE:
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
    r"\bread_csv\(": {
        "evaluation/standalone/de_file.py",
        "reporting/page/training_curves.py",
        "reporting/page/run_files.py",
    },
    r"\.to_csv\(": set(),
    r"\byaml\.(safe_)?load\(": {"core/documents.py"},
    r"\btomllib\.": {"core/documents.py"},
    r"\bpickle\.load|Unpickler\(": {"training/launch.py"},
    r"\btorch\.load\(": {"models/imported/checkpoint_file.py", "training/loop/checkpoints.py"},
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
