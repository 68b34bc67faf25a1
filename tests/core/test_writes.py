"""What `whole` and `staged` replace, and what they never touch."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from statetx.core.errors import ResultsError
from statetx.core.writes import check_new, check_target, staged, sweep, sweep_below, whole

OWN = ("model.json", "*.safetensors")


def tree(root: Path) -> dict[str, bytes | str]:
    """Everything below a directory: content of files, targets of links."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "directory" if path.is_dir() else "special"
    return found


def a_directory(target: Path) -> None:
    target.mkdir()
    (target / "thesis.txt").write_text("precious")


def a_model_with_notes(target: Path) -> None:
    target.mkdir()
    (target / "model.json").write_text("{}")
    (target / "notes.txt").write_text("precious")


def a_link_to_a_file(target: Path) -> None:
    (target.parent / "elsewhere").write_text("precious")
    target.symlink_to(target.parent / "elsewhere")


def a_link_to_a_directory(target: Path) -> None:
    a_directory(target.parent / "elsewhere")
    target.symlink_to("elsewhere")


def a_link_to_nothing(target: Path) -> None:
    target.symlink_to("nowhere")


def a_pipe(target: Path) -> None:
    os.mkfifo(target)


def a_protected_file(target: Path) -> None:
    target.write_text("precious")
    target.chmod(0o444)


FOREIGN = [
    a_directory,
    a_model_with_notes,
    a_link_to_a_file,
    a_link_to_a_directory,
    a_link_to_nothing,
    a_pipe,
    a_protected_file,
]


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_nothing_foreign_is_replaced(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    target = tmp_path / "out"
    make(target)
    before = tree(tmp_path)
    with pytest.raises(ResultsError) as caught, whole(target, OWN if kind == "directory" else None):
        raise AssertionError("refused before any work")
    assert caught.value.fix
    assert tree(tmp_path) == before


def test_a_file_and_a_directory_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(ResultsError, match="this is a file; a directory is to be written"):
        check_target(tmp_path / "out", OWN)
    (tmp_path / "dir").mkdir()
    with pytest.raises(ResultsError, match="this is a directory; a file is to be written"):
        check_target(tmp_path / "dir")


def test_a_directory_that_becomes_foreign_while_we_write_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(ResultsError, match=r"thesis\.txt"), whole(target, OWN) as part:
        part.mkdir()
        a_directory(target)
    assert tree(tmp_path) == {"out": "directory", "out/thesis.txt": b"precious"}


def test_an_empty_directory_and_an_own_one_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    for name in ("model.json", "best.safetensors"):
        with whole(target, OWN) as part:
            part.mkdir()
            (part / name).write_text(name)
    assert tree(tmp_path) == {"out": "directory", "out/best.safetensors": b"best.safetensors"}


@pytest.mark.parametrize("name", [".", "..", "/", "a/.."])
def test_a_place_without_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ResultsError, match="is not the name of"):
        check_target(Path(name), OWN)


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 125, "a[b]*?.csv", " blank "])
def test_odd_names_can_be_written(tmp_path: Path, name: str) -> None:
    for text in ("one", "two"):
        with whole(tmp_path / name) as part:
            part.write_text(text)
    assert tree(tmp_path) == {name: b"two"}


def test_links_above_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to("disk")
    with whole(tmp_path / "results" / "table.csv") as part:
        part.write_text("x")
    assert (tmp_path / "disk" / "table.csv").read_text() == "x"


def test_staged_moves_nothing_where_one_file_cannot_go(tmp_path: Path) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    (out / "b.csv").symlink_to("thesis.txt")
    before = tree(tmp_path)
    with pytest.raises(ResultsError, match="is a link to"), staged(out) as stage:
        (stage / "a.csv").write_text("a")
        (stage / "b.csv").write_text("b")
    assert tree(tmp_path) == before
    (out / "b.csv").unlink()
    with staged(out) as stage:
        (stage / "line").mkdir()
        (stage / "line" / "a.csv").write_text("a")
    assert set(tree(out)) == {"thesis.txt", "line", "line/a.csv"}


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_makes_is_not(
    tmp_path: Path,
) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from statetx.core.writes import whole\n"
        "with whole(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    target = tmp_path / "out"
    mine = tmp_path / ".out.original"
    a_directory(mine)
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "other").mkdir()
    with whole(tmp_path / "other" / "table.csv") as part:
        part.write_text("x")
        sweep_below(tmp_path / "other")
        assert part.exists()
    shutil.copytree(
        next(tmp_path.glob(".out.statetx-*")), tmp_path / "other" / ".y.statetx-1234abcd"
    )
    sweep_below(tmp_path / "other")
    assert set(tree(tmp_path / "other")) == {"table.csv"}
    shutil.rmtree(tmp_path / "other")
    with whole(target) as part:
        part.write_text("whole")
        assert len(list(tmp_path.iterdir())) == 2, "the killed one's is gone, this one's is there"
        sweep(target)
        assert part.read_text() == "whole"
    assert set(tree(tmp_path)) == {"out", ".out.original", ".out.original/thesis.txt"}


def test_what_has_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)  # noqa: PTH115
        sync(handle)

    def moved(source: Path, target: Path) -> None:
        order.append(f"rename {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", moved)
    with whole(tmp_path / "model", OWN) as part:
        part.mkdir()
        (part / "best.safetensors").write_text("x")
    assert order == ["best.safetensors", "model", "rename model", tmp_path.name]


def test_without_locks_nothing_is_swept_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with whole(tmp_path / "out") as part:
        part.write_text("x")
    assert tree(tmp_path) == {"out": b"x"}


def test_force_replaces_only_what_is_recognised(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    check_new(target, False, lambda _: False)
    target.write_text("ours")
    with pytest.raises(ResultsError, match="exists already") as caught:
        check_new(target, False, lambda _: True)
    assert "--force" in str(caught.value)
    check_new(target, True, lambda _: True)
    with pytest.raises(ResultsError, match="is not an earlier output"):
        check_new(target, True, lambda _: False)


def test_a_directory_that_snakemake_has_marked_is_replaced(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    (model / ".snakemake_timestamp").touch()
    with whole(model, ("*.json",)) as part:
        part.mkdir()
        (part / "model.json").write_text("[]")
    assert (model / "model.json").read_text() == "[]"
