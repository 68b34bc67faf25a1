"""Packing that is killed, that fills the disk, whose sources change; and its steps by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import h5py
import pytest
from small_cells import cells, settings

from statetx.core.errors import DataError, ResultsError
from statetx.data.pack import check_disk_space as room
from statetx.data.pack import pack
from statetx.data.pack.scatter import scatter
from statetx.data.pack.survey import Survey, survey
from statetx.data.store.store import open_store


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for seed, path in enumerate(files):
        cells(seed=seed).write_h5ad(path)
    return files


def interrupted(files: list[Path], out: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack until a step begins."""

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack, step, broken)
        with pytest.raises(KeyboardInterrupt):
            pack.pack(files, settings(), "d", out)


def same_files(a: Path, b: Path) -> bool:
    names = ("L1.h5ad", "L2.h5ad", "conditions.parquet", "manifest.json")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_a_killed_packing_goes_on(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack.pack(two, settings(), "d", tmp_path / "whole")
    code = (
        "import os, signal, sys\n"
        "from statetx.config import Dataset\n"
        "from statetx.data.pack import gather, pack\n"
        "real = gather.write_names\n"
        "def write_names(obs, cells, aliases):\n"
        "    if '/.L2' in obs.file.filename:\n"  # in the middle of the second line
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(obs, cells, aliases)\n"
        "gather.write_names = write_names\n"
        "made = Dataset.model_validate_json(sys.argv[1])\n"
        "pack.pack(sys.argv[3:], made, 'd', sys.argv[2])\n"
    )
    out = tmp_path / "pack"
    command = [sys.executable, "-c", code, settings().model_dump_json(), str(out)]
    ended = subprocess.run([*command, *map(str, two)], capture_output=True)
    assert ended.returncode == -9, ended.stderr
    whole = [path.name for path in out.iterdir() if not path.name.startswith(".")]
    assert whole == ["L1.h5ad"], "no manifest: no store"
    assert list(out.glob(".L2.h5ad.*")), "killed while it wrote"
    with pytest.raises(ResultsError, match="not a packed store"):
        open_store(out)

    def refuse(*_: Any) -> None:
        raise AssertionError("a finished part was made again")

    monkeypatch.setattr(pack, "scatter", refuse)
    done: list[str] = []
    real = pack.gather
    monkeypatch.setattr(pack, "gather", lambda s, p, line, *rest: (done.append(line), real(s, p, line, *rest)))  # fmt: skip
    pack.pack(two, settings(), "d", out)
    assert done == ["L2"], "L1 was finished"
    assert same_files(tmp_path / "whole", out)
    assert not list(out.glob(".*")), "nothing half-made is left"
    assert not (tmp_path / "pack.parts").exists()


def test_a_finished_line_that_was_deleted_is_made_again(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(two, tmp_path / "pack", "finish", monkeypatch)
    (tmp_path / "pack/L1.h5ad").unlink()
    pack.pack(two, settings(), "d", tmp_path / "pack")
    pack.pack(two, settings(), "d", tmp_path / "whole")
    assert same_files(tmp_path / "whole", tmp_path / "pack")


def test_a_line_packed_otherwise_in_between_is_made_again(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(two, tmp_path / "pack", "finish", monkeypatch)
    other = settings(target_sum=77.0)
    pack.pack(two, other, "d", tmp_path / "other")
    (tmp_path / "pack/L1.h5ad").write_bytes((tmp_path / "other/L1.h5ad").read_bytes())
    pack.pack(two, settings(), "d", tmp_path / "pack")
    pack.pack(two, settings(), "d", tmp_path / "whole")
    assert same_files(tmp_path / "whole", tmp_path / "pack")


@pytest.mark.parametrize("how", ["gone", "half", "flipped", "empty index", "flipped index"])
def test_a_damaged_part_is_made_again(
    two: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    interrupted(two, tmp_path / "pack", "gather", monkeypatch)
    cells_bin = tmp_path / "pack.parts" / "0001" / "cells.bin"
    index = cells_bin.with_name("index.json")
    content = bytearray(cells_bin.read_bytes())
    if how == "gone":
        cells_bin.unlink()
    elif how == "half":
        cells_bin.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        content[len(content) // 2] ^= 1
        cells_bin.write_bytes(content)
    elif how == "empty index":
        index.write_text("")
    else:
        index.write_text(index.read_text().replace('"n_cells": 3', '"n_cells": 2', 1))
    found = survey(two, settings(), "d")
    if how != "flipped":  # read block by block: its checksum is compared before that
        with pytest.raises(ResultsError, match="cannot read this part"):
            parts = [cells_bin.parents[1] / "0000", cells_bin.parent]
            pack.gather(found, parts, "L1", settings(), tmp_path / "L1.h5ad")
    made: list[int] = []
    real = pack.scatter
    monkeypatch.setattr(pack, "scatter", lambda s, n, *rest: (made.append(n), real(s, n, *rest)))
    pack.pack(two, settings(), "d", tmp_path / "pack")
    assert made == [1]
    assert "0001 is made again" in caplog.text
    pack.pack(two, settings(), "d", tmp_path / "whole")
    assert same_files(tmp_path / "whole", tmp_path / "pack")


def test_a_csc_file_needs_room_to_be_dealt_into_rows(two: list[Path], tmp_path: Path) -> None:
    rows = room.need(two[:1], settings())
    adata = anndata.read_h5ad(two[0])
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "csc.h5ad")
    columns = room.need([tmp_path / "csc.h5ad"], settings())
    assert columns.parts - rows.parts == 12 * adata.X.nnz
    assert columns.store == rows.store


def test_other_settings_use_nothing_of_an_interrupted_packing(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(two, tmp_path / "pack", "gather", monkeypatch)
    assert len(list((tmp_path / "pack.parts").iterdir())) == 2
    other = settings(target_sum=77.0)
    pack.pack(two, other, "d", tmp_path / "pack")
    pack.pack(two, other, "d", tmp_path / "whole")
    assert same_files(tmp_path / "whole", tmp_path / "pack")


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 60, 100])
def test_a_full_disk_leaves_nothing_half_made(
    two: list[Path], tmp_path: Path, kilobytes: int
) -> None:
    """The limit of a file's size stands for a full disk: the same error of the same writes. A fresh
    interpreter each, 5 s."""
    code = (
        "import resource, signal, sys\n"
        "import anndata\n"  # libraries may write caches: the limit comes after them
        "from statetx.config import Dataset\n"
        "from statetx.data.pack import pack\n"
        "from statetx.core.errors import StatetxError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "made = Dataset.model_validate_json(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))\n"
        "try:\n"
        "    pack.pack(sys.argv[4:], made, 'd', sys.argv[2])\n"
        "except StatetxError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    for path in two:  # parts and lines of some 40 to 90 kB
        adata = cells(600, 100, seed=int(path.stem == "b"))
        adata.write_h5ad(path)
    out, made = tmp_path / "pack", settings()
    limit = str(kilobytes << 10)
    command = [sys.executable, "-c", code, made.model_dump_json(), str(out), limit]
    ended = subprocess.run([*command, *map(str, two)], capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    assert "disk is full" in ended.stdout
    assert "run the same command again" in ended.stdout
    parts = tmp_path / "pack.parts"
    left = [*out.iterdir(), *(parts.iterdir() if parts.exists() else [])]
    assert not [path for path in left if path.name.startswith(".")], "temporary files"
    assert not (out / "manifest.json").exists()
    for path in out.glob("*.h5ad"):
        assert anndata.read_h5ad(path).n_obs > 0, "what is there is whole"
    pack.pack(two, made, "d", out)
    pack.pack(two, made, "d", tmp_path / "whole")
    assert same_files(tmp_path / "whole", out)


def test_a_source_that_changes_while_it_is_packed(two: list[Path], tmp_path: Path) -> None:
    found = survey(two, settings(), "d")
    cells(seed=9).write_h5ad(two[1])
    scatter(found, 0, settings(), tmp_path / "0000")
    with pytest.raises(DataError, match="changed while it was packed") as caught:
        scatter(found, 1, settings(), tmp_path / "0001")
    assert "b.h5ad" in str(caught.value)
    assert not (tmp_path / "0001").exists()
    with pytest.raises(DataError, match="changed while it was packed"):
        pack.finish(found, settings(), tmp_path, [tmp_path / "0000"])


def test_parts_of_other_data_are_refused(two: list[Path], tmp_path: Path) -> None:
    found = survey(two, settings(), "d")
    for number in (0, 1):
        scatter(found, number, settings(), tmp_path / f"{number:04d}")
    parts = [tmp_path / "0000", tmp_path / "0001"]
    other = survey(two, settings(target_sum=5.0), "d")
    with pytest.raises(ResultsError, match="made from other files or settings"):
        pack.gather(other, parts, "L1", settings(), tmp_path / "L1.h5ad")
    with pytest.raises(ResultsError, match="cannot read this part"):
        pack.gather(found, [parts[0], tmp_path / "none"], "L1", settings(), tmp_path / "L1.h5ad")
    with pytest.raises(ResultsError, match="no part holds a cell of line 'L3'"):
        pack.gather(found, parts, "L3", settings(), tmp_path / "L3.h5ad")
    with pytest.raises(ResultsError, match="line 'L1' are missing"):
        pack.finish(found, settings(), tmp_path / "empty", parts)


def test_a_survey_is_read_back(two: list[Path], tmp_path: Path) -> None:
    found = survey(two, settings(), "d")
    found.write(tmp_path / "survey.json")
    assert Survey.read(tmp_path / "survey.json") == found
    assert found.cells == {"L1": 60, "L2": 60}
    (tmp_path / "survey.json").write_text(json.dumps({"dataset": "d"}))
    with pytest.raises(ResultsError, match="cannot read this survey"):
        Survey.read(tmp_path / "survey.json")


def test_where_files_lie_changes_no_store(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    moved = []
    for path in two:
        moved.append(tmp_path / "moved" / path.name)
        moved[-1].write_bytes(path.read_bytes())
    pack.pack(two, settings(), "d", tmp_path / "one")
    pack.pack(moved, settings(), "d", tmp_path / "other")
    assert same_files(tmp_path / "one", tmp_path / "other")
    pack.pack(two[::-1], settings(), "d", tmp_path / "reversed")
    assert not same_files(tmp_path / "one", tmp_path / "reversed")


def test_parts_of_a_file_that_was_edited_are_not_used(two: list[Path], tmp_path: Path) -> None:
    """Of the same size, header and labels: only its modification time tells."""
    before = survey(two, settings(), "d").digest
    with h5py.File(two[1], "r+") as file:
        file["X/data"][5] = 77
    assert survey(two, settings(), "d").digest != before


def test_room_on_the_disk_is_asked_first(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level("INFO", "statetx.pack")
    room.check_room(two, settings(), tmp_path / "not" / "there")
    assert "packing takes about" in caplog.text
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResultsError, match=r"packing needs about .* but only 1.0 kB are free"):
        room.check_room(two, settings(), tmp_path / "pack")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/cells.bin").write_bytes(bytes(10**7))
    room.check_room(two, settings(), tmp_path / "pack", tmp_path / "parts")


def test_the_same_chunk_by_chunk(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack.pack(two, settings(), "d", tmp_path / "whole")
    monkeypatch.setattr("statetx.data.h5ad.matrix.CHUNK_NONZEROS", 50)
    monkeypatch.setattr("statetx.data.pack.gather.BLOCK_BYTES", 200)
    monkeypatch.setattr("statetx.data.h5ad.obs_columns._PIECE", 7)
    monkeypatch.setattr("statetx.data.h5ad.identity._PIECE", 1 << 18)
    pack.pack(two, settings(), "d", tmp_path / "pieces")
    assert same_files(tmp_path / "whole", tmp_path / "pieces")
