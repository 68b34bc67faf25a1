"""Whether source files still hold what was packed, where something is damaged or goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from statetx.cli import stages as cli_stages
from statetx.config import Config, load
from statetx.core.errors import ResultsError
from statetx.data.pack import content
from statetx.data.simulate import simulate
from statetx.stages import packed_sources

SIZES = {"n_lines": 2, "n_drugs": 2, "doses": [5.0], "cells_per_condition": 6, "n_genes": 30}


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Two source files in the working directory, not packed."""
    from statetx.config import Simulate

    monkeypatch.chdir(tmp_path)
    simulate(Simulate(**SIZES, controls_per_line=12, n_hvg=10), Path("data"))
    (tmp_path / "data/truth.parquet").unlink()
    data = {"files": ["data/*.h5ad"], "control_pert": "DMSO_TF_00", "scale": "counts"}
    Path("c.yaml").write_text(
        yaml.safe_dump(
            {
                "datasets": {"d": data},
                "splits": {"s": {"dataset": "d", "generator": "line_out", "lines": ["L01"]}},
                "models": {"m": {"kind": "no_change"}},
                "experiments": {"e": {"splits": ["s"], "models": ["m"]}},
            }
        )
    )
    return load(Path("c.yaml"))


def triple(path: Path) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        file["X/data"][...] = file["X/data"][()] * 3


def test_a_first_packing_that_was_interrupted_sees_mended_and_added_files(cfg: Config) -> None:
    out = Path("results/d/pack/content.json")
    assert not packed_sources.sources_changed(cfg, "d"), "nothing was begun"
    packed_sources.compare_sources(cfg, "d", out)
    before = out.read_bytes()
    assert not packed_sources.sources_changed(cfg, "d")
    triple(Path("data/L01.h5ad"))
    assert packed_sources.sources_changed(cfg, "d")
    packed_sources.compare_sources(cfg, "d", out)
    assert out.read_bytes() != before
    shutil.copy("data/L02.h5ad", "data/L03.h5ad")
    assert packed_sources.sources_changed(cfg, "d")


def test_moved_files_leave_the_bytes_of_the_answer_alone(cfg: Config) -> None:
    cli_stages.pack(Path("c.yaml"), "d")
    out = Path("results/d/pack/content.json")
    before = out.read_bytes()
    assert not packed_sources.sources_changed(cfg, "d")
    for path in list(Path("data").iterdir()):
        shutil.copy(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").rename(path)
    assert not packed_sources.sources_changed(cfg, "d")
    assert not packed_sources.compare_sources(cfg, "d", out)
    assert out.read_bytes() == before
    triple(Path("data/L01.h5ad"))
    assert packed_sources.sources_changed(cfg, "d")
    with pytest.raises(
        ResultsError, match=r"'data/L01.h5ad' contains other cells than were packed"
    ):
        packed_sources.check_fresh(cfg, "d")
    assert packed_sources.compare_sources(cfg, "d", out)
    assert out.read_bytes() != before


@pytest.mark.parametrize("damage", ["{", "stomp", "[]"])
def test_a_damaged_list_of_sources_counts_as_changed(cfg: Config, damage: str) -> None:
    cli_stages.pack(Path("c.yaml"), "d")
    path = Path("results/d/pack/sources.json")
    text = path.read_text()
    path.write_text(text.replace("stamp", "stomp") if damage == "stomp" else damage)
    assert packed_sources.sources_changed(cfg, "d")
    path.unlink()
    assert packed_sources.sources_changed(cfg, "d")


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli_stages.pack(Path("c.yaml"), "d")
    real = content.content_of

    def replaced(path: Path, settings: object) -> str:
        found = real(path, settings)
        triple(path)
        return found

    for path in Path("data").iterdir():
        path.touch()
    monkeypatch.setattr(content, "content_of", replaced)
    with pytest.raises(ResultsError, match="changed while it was read"):
        packed_sources.sources_changed(cfg, "d")
    monkeypatch.undo()


def test_damaged_notes_are_made_again(cfg: Config) -> None:
    lines = packed_sources.cell_lines(cfg, "d")
    assert lines == ["L01", "L02"]
    for note in Path(".state/inspect").glob("*.json"):
        said = json.loads(note.read_text())
        note.write_text(json.dumps({**said, "known": ["L09"]}))
    assert packed_sources.cell_lines(cfg, "d") == lines
