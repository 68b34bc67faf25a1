"""Which changes of code make a result stale."""

import re
import shutil
from pathlib import Path

import pytest

import statetx
from statetx.core.errors import ResultsError
from statetx.core.fingerprint import code_fingerprint, followed_modules
from statetx.stages import fingerprints

SOURCE = '''
"""Docstring."""
import logging

from statetx.data import helper

log = logging.getLogger(__name__)


def f(x):
    """Doc."""
    if x < 0:
        raise ValueError(f"bad {x}")
    log.info("x is %s", x)
    return helper.g(x) + 1
'''


@pytest.fixture
def package(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("")
    (tmp_path / "stage.py").write_text(SOURCE)
    (tmp_path / "core").mkdir()
    (tmp_path / "data" / "helper.py").write_text(
        "from statetx.core import errors\ng = lambda x: x\n"
    )
    (tmp_path / "core" / "errors.py").write_text("a = 1\n")
    return tmp_path


def fingerprint(package):
    return code_fingerprint(["statetx.stage"], package)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Docstring."""', '"""Other words."""'),
        ('"""Doc."""', ""),
        ('f"bad {x}"', 'f"x = {x} must not be negative", "fix"'),
        ('log.info("x is %s", x)', 'log.info("now %s", x)'),
        ('    log.info("x is %s", x)\n', ""),
        ("return helper.g(x) + 1", "return helper.g(x) + 1  # one more"),
        ("return helper.g(x) + 1", "return (\n        helper.g(x) + 1\n    )"),
    ],
)
def test_words_and_layout_do_not_count(package, old, new):
    before = fingerprint(package)
    assert old in SOURCE
    (package / "stage.py").write_text(SOURCE.replace(old, new))
    assert fingerprint(package) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("+ 1", "+ 2"), ("if x < 0", "if x <= 0"), ("ValueError", "TypeError"), ("f(x)", "f(x, y=1)")],
)
def test_meaning_counts(package, old, new):
    before = fingerprint(package)
    (package / "stage.py").write_text(SOURCE.replace(old, new))
    assert fingerprint(package) != before


def test_imports_are_followed_but_not_errors(package):
    before = fingerprint(package)
    (package / "core" / "errors.py").write_text("a = 2\n")
    assert fingerprint(package) == before
    (package / "data" / "helper.py").write_text("g = lambda x: -x\n")
    assert fingerprint(package) != before


def test_missing_root_is_an_error(package):
    with pytest.raises(ResultsError, match=r"statetx\.absent"):
        code_fingerprint(["statetx.absent"], package)


def test_training_code_does_not_follow_evaluation_nor_other_kinds():
    modules = followed_modules(
        [
            "statetx.training.fit",
            "statetx.training.fit_network",
            "statetx.models.network.set_transformer",
        ]
    )
    assert not [name for name in modules if ".evaluation" in name or ".reporting" in name]
    assert "statetx.models.kinds.context_mean" not in modules
    assert "statetx.data.sets.set_table" in modules


def test_evaluation_code_does_not_follow_models():
    modules = followed_modules(
        ["statetx.evaluation.held_out.evaluate", "statetx.evaluation.held_out.reference"]
    )
    assert not [name for name in modules if name.split(".")[1] in ("models", "training")]


HELPER = "from statetx.core import errors\ng = lambda x: x\n"


@pytest.mark.parametrize(
    "added",
    [
        "def unused():\n    return 2\n",
        "class Unused:\n    pass\n",
        "from statetx.core import writes\n",
    ],
)
def test_a_definition_that_nothing_reaches_does_not_count(package, added):
    before = fingerprint(package)
    (package / "data" / "helper.py").write_text(HELPER + added)
    assert fingerprint(package) == before


@pytest.mark.parametrize(
    "added",
    [
        "def g(x):\n    return x + 1\n",
        "g.cache = {}\n",
        "import functools\n@functools.cache\ndef unused():\n    return 2\n",
        "def __getattr__(name):\n    return 1\n",
    ],
)
def test_what_may_be_reached_counts(package, added):
    before = fingerprint(package)
    (package / "data" / "helper.py").write_text(HELPER + added)
    assert fingerprint(package) != before


def test_what_a_definition_calls_in_turn_counts(package):
    called = "def f(x):\n    return x{}\ng = lambda x: f(x)\n"
    (package / "data" / "helper.py").write_text(called.format(""))
    before = fingerprint(package)
    (package / "data" / "helper.py").write_text(called.format(" + 1"))
    assert fingerprint(package) != before


def test_a_name_that_is_imported_from_another_module_counts(package):
    for name, body in (("one", "1"), ("two", "2")):
        (package / "data" / f"{name}.py").write_text(f"def h(x):\n    return {body}\n")
    source = (
        "from statetx.data.one import h\nfrom statetx.data.two import h as other\nx = h, other\n"
    )
    (package / "stage.py").write_text(source)
    before = fingerprint(package)
    (package / "stage.py").write_text(
        source.replace("one import h", "two import h").replace("two import h as", "one import h as")
    )
    assert fingerprint(package) != before


def test_a_package_from_elsewhere_counts_by_name(package):
    (package / "stage.py").write_text("from numpy import mean as f\nx = f\n")
    before = fingerprint(package)
    (package / "stage.py").write_text("from scipy import mean as f\nx = f\n")
    assert fingerprint(package) != before


def test_modules_that_import_each_other_are_followed(package):
    (package / "data" / "helper.py").write_text(
        "import statetx.stage\nfrom statetx import stage\ng = lambda x: x\n"
    )
    assert fingerprint(package) == fingerprint(package)


def of_all_stages(package_dir):
    found = {}
    for stage, roots in fingerprints.CODE.items():
        for kind, way in (("ridge", "fit_baseline"), ("pertsets", "fit_network")):
            named = [root.format(kind=kind, way=way) for root in roots]
            found[stage, kind] = code_fingerprint(named, package_dir)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of the package."""
    home = tmp_path_factory.mktemp("package") / "statetx"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(statetx.__file__).parent, home, ignore=ignored)
    return home


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("statetx.data.store.roles", "statetx.data.sets.who_serves"),
        ("statetx.shared.seeds", "statetx.evaluation.numerics.seeds"),
        ("statetx.models.network.losses", "statetx.models.losses_of_sets"),
    ],
)
def test_a_moved_module_makes_nothing_stale(installed, tmp_path, old, new):
    home = tmp_path / "statetx"
    shutil.copytree(installed, home)
    before = of_all_stages(home)
    path = {name: home.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in (old, new)}
    path[old].rename(path[new])
    parent, name = new.rsplit(".", 1)
    for file in home.rglob("*.py"):
        text = file.read_text().replace(old, new)
        aside = re.compile(rf"from {old.rpartition('.')[0]} import {old.rpartition('.')[2]}$", re.M)
        file.write_text(aside.sub(f"from {parent} import {name} as {old.rpartition('.')[2]}", text))
    assert of_all_stages(home) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("reporting/page/training_curves.py", "#56b4e9", "#56b4e8"),
        ("training/loop/progress.py", "mininterval=0.5", "mininterval=0.7"),
        ("training/launch.py", "RENDEZVOUS_S = 600", "RENDEZVOUS_S = 900"),
    ],
)
def test_drawing_progress_and_processes_make_no_training_stale(installed, tmp_path, file, old, new):
    home = tmp_path / "statetx"
    shutil.copytree(installed, home)
    before = of_all_stages(home)
    text = (home / file).read_text()
    assert old in text
    (home / file).write_text(text.replace(old, new))
    changed = {key for key, found in of_all_stages(home).items() if found != before[key]}
    assert {stage for stage, _ in changed} <= {"report"}
