import json
import os

import pytest

from statetx.core.digests import digest
from statetx.core.errors import ResultsError
from statetx.core.text_files import write_json
from statetx.core.writes import whole


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
