import json
import os

import pytest

from statetx.core.digests import digest
from statetx.core.errors import ResultsError
from statetx.core.fingerprint import code_fingerprint, followed_modules
from statetx.core.text_files import write_json
from statetx.core.writes import whole

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


def test_whole_file_or_nothing(tmp_path):
    target = tmp_path / "deep" / "out.txt"
    with pytest.raises(RuntimeError), whole(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with whole(target) as part:
        part.write_text("all")
    assert target.read_text() == "all"
    with pytest.raises(RuntimeError), whole(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "all"
    assert [path.name for path in target.parent.iterdir()] == ["out.txt"]


def test_whole_directory_replaces_an_earlier_one(tmp_path):
    target = tmp_path / "model"
    for name in ("a", "b"):
        with whole(target, own=("a", "b")) as part:
            part.mkdir()
            (part / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["b"]


def test_files_get_ordinary_permissions(tmp_path):
    with whole(tmp_path / "model") as part:
        part.mkdir()
        (part / "weights").write_text("")
        (part / "weights").chmod(0o600)
    with whole(tmp_path / "plain") as part:
        part.write_text("")
    plain = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "model" / "weights").stat().st_mode == plain
    assert plain & 0o400


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(ResultsError, match="nothing was written"), whole(tmp_path / "x"):
        pass


def test_results_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "results").write_text("a file where a directory should be")
    with pytest.raises(ResultsError, match="cannot write here") as caught:
        write_json(tmp_path / "results" / "x.json", {})
    assert "make the directory writable" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_results_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResultsError, match="cannot write here"):
        write_json(tmp_path / "x.json", {})


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}


def test_digest_ignores_key_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 2})
