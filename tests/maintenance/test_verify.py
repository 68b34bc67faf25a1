from pathlib import Path

import pytest
from typer.testing import CliRunner

from statetx.cli.main import app
from statetx.core import records
from statetx.core.errors import ResultsError
from statetx.maintenance.verify import verify_all


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        path = tmp_path / "results" / name
        path.mkdir(parents=True)
        (path / "scores.csv").write_text("1,2,3\n")
        records.write_record(
            path / "record.json", stage="s", code="c", settings={}, inputs={}, outputs=[path]
        )
    return tmp_path / "results"


def test_whole_results_pass(results: Path) -> None:
    found = verify_all([results])
    assert (found.n_files, found.n_bytes, found.damaged) == (2, 12, [])
    done = CliRunner().invoke(app, ["verify", str(results)])
    assert done.exit_code == 0
    assert "all as they were written" in done.output


def test_every_damage_is_named(results: Path) -> None:
    (results / "a" / "scores.csv").write_text("1,2,4\n")
    (results / "b" / "record.json").write_text("{}")
    done = CliRunner().invoke(app, ["verify", str(results)])
    assert done.exit_code == 1
    assert str(results / "a" / "scores.csv") in done.output
    assert str(results / "b" / "record.json") in done.output
    (results / "a" / "scores.csv").unlink()
    assert "cannot read the file" in verify_all([results]).damaged[0].what


def test_a_place_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="does not contain records"):
        verify_all([tmp_path])
    with pytest.raises(ResultsError, match="not a directory"):
        verify_all([tmp_path / "absent"])


def test_results_without_record_and_behind_links_are_seen(results: Path) -> None:
    (results / "a" / "other.csv").write_text("1\n")
    assert "has no record" in verify_all([results]).damaged[0].what
    (results / "a" / "other.csv").unlink()
    (results / "b").rename(results.parent / "elsewhere")
    (results / "b").symlink_to(results.parent / "elsewhere")
    assert verify_all([results]).n_files == 2
