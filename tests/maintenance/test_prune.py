"""Prune: what goes, what stays, and when it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from statetx.core.errors import ConfigError, ResultsError
from statetx.maintenance.prune import prune, text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with four step checkpoints and a stranger beside them."""
    model, steps = tmp_path / "seed0" / "model", tmp_path / "seed0" / "checkpoints"
    model.mkdir(parents=True)
    steps.mkdir()
    for name in ("genes.txt", "golden.npz", "config.yaml"):
        (model / name).write_text("x")
    (model / "model.json").write_text("{}")
    for path in (model / "best.safetensors", model / "last.safetensors"):
        save_file({"w": np.arange(6.0)}, path)
    for step in (500, 1000, 1500, 2000):
        save_file({"w": np.arange(float(step))}, steps / f"step={step}.safetensors")
    (steps / "notes.txt").write_text("mine")
    (steps / "step=2500.safetensors.tmp").write_text("half")
    return tmp_path / "seed0"


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_dry_run_by_default(run: Path) -> None:
    before = tree(run)
    manifest = prune(run, ["best", "last", "step=1000"])
    assert tree(run) == before
    assert manifest["mode"] == "dry-run"
    actions = {item["path"]: item["action"] for item in manifest["files"]}
    assert set(actions) == set(before)
    doomed = {path for path, action in actions.items() if action == "delete"}
    assert doomed == {f"checkpoints/step={n}.safetensors" for n in (500, 1500, 2000)}
    assert manifest["bytes_freed"] == sum(len(before[path]) for path in doomed)
    assert manifest["bytes_kept"] == sum(len(before[p]) for p in before if p not in doomed)
    assert "would be freed" in text(manifest)


def test_delete_removes_exactly_what_the_manifest_says(run: Path, tmp_path: Path) -> None:
    before = tree(run)
    manifest = prune(run, ["best", "step=1000"], delete=True, out=tmp_path / "out" / "prune.json")
    doomed = {item["path"] for item in manifest["files"] if item["action"] == "delete"}
    assert len(doomed) == 3
    assert tree(run) == {path: data for path, data in before.items() if path not in doomed}
    assert json.loads((tmp_path / "out" / "prune.json").read_text()) == manifest
    again = prune(run, ["best", "step=1000"], delete=True)
    assert again["bytes_freed"] == 0
    assert again["bytes_kept"] == manifest["bytes_kept"]


def test_every_file_has_a_reason(run: Path) -> None:
    manifest = prune(run, ["step=1000"])
    reasons = {item["path"]: item["reason"] for item in manifest["files"]}
    assert reasons["checkpoints/step=1000.safetensors"] == "asked for: step=1000"
    assert reasons["checkpoints/notes.txt"] == "not a step checkpoint"
    assert reasons["checkpoints/step=2500.safetensors.tmp"] == "not a step checkpoint"
    assert reasons["model/best.safetensors"] == "the model directory is never pruned"
    assert "nothing asked for" in reasons["checkpoints/step=500.safetensors"]


def test_what_is_asked_for_but_absent_is_said(run: Path) -> None:
    manifest = prune(run, ["best", "step=750"])
    assert manifest["missing"] == ["step=750"]
    assert "step=750" in text(manifest)


def test_a_link_is_removed_and_not_its_target(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.safetensors"
    target.write_text("precious")
    (run / "checkpoints" / "step=7.safetensors").symlink_to(target)
    prune(run, [], delete=True)
    assert target.read_text() == "precious"
    assert not (run / "checkpoints" / "step=7.safetensors").is_symlink()


def test_a_baseline_has_nothing_to_prune(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    (run / "checkpoints").rmdir()
    (run / "model" / "last.safetensors").unlink()
    manifest = prune(run, ["best", "last"], delete=True)
    assert manifest["bytes_freed"] == 0
    assert manifest["missing"] == ["last"]


@pytest.mark.parametrize(
    "name", ["model.json", "genes.txt", "golden.npz", "best.safetensors", "last.safetensors"]
)
def test_refuses_an_incomplete_model(run: Path, name: str) -> None:
    (run / "model" / name).unlink()
    before = tree(run)
    with pytest.raises(ResultsError, match=f"incomplete: {name} missing"):
        prune(run, ["best"], delete=True)
    assert tree(run) == before


def test_refuses_a_missing_model(run: Path) -> None:
    (run / "model").rename(run / "modle")
    with pytest.raises(ResultsError, match="does not have a finished model"):
        prune(run, ["best"], delete=True)
    assert (run / "checkpoints" / "step=500.safetensors").exists()


@pytest.mark.parametrize("cut", [4, 20, -1])
def test_refuses_truncated_weights(run: Path, cut: int) -> None:
    best = run / "model" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:cut])
    with pytest.raises(ResultsError, match="truncated"):
        prune(run, ["best"], delete=True)
    assert (run / "checkpoints" / "step=500.safetensors").exists()


def test_refuses_broken_json(run: Path) -> None:
    (run / "model" / "model.json").write_text("{")
    with pytest.raises(ResultsError, match=r"model\.json cannot be read"):
        prune(run, ["best"], delete=True)


@pytest.mark.parametrize(
    ("name", "fix"), [("bst", "'best'"), ("step=abc", "'step=N'"), ("step=1e3", "'step=N'")]
)
def test_a_misspelt_name_deletes_nothing(run: Path, name: str, fix: str) -> None:
    before = tree(run)
    with pytest.raises(ConfigError) as caught:
        prune(run, ["best", name], delete=True)
    assert fix in str(caught.value.fix)
    assert tree(run) == before


@pytest.mark.parametrize("place", ["", "checkpoints"])
def test_nothing_is_deleted_through_a_link(run: Path, tmp_path: Path, place: str) -> None:
    linked = run / place if place else run
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    for delete in (True, False):
        with pytest.raises(ResultsError, match="this is a link to"):
            prune(run, ["best"], delete=delete)
    assert tree(tmp_path) == before


def test_a_run_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="this run does not exist"):
        prune(tmp_path / "seed0", ["best"])
