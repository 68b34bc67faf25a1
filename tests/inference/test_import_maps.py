"""Maps of perturbations under either of their names; attention modes that controls cannot tell apart."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from test_import import CONTROL, LABELS, Evil, Run, _check, _chosen, _h5ad

from statetx.core.errors import ModelError
from statetx.inference import choose_attention as attention
from statetx.inference.import_run import import_run
from statetx.models.imported import arc

OLD, NEW = "pert_onehot_map.pt", "pert_onehot_map.torch"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.mark.parametrize("given", ["run", "checkpoint"])
def test_the_newer_name_of_the_map_is_found(run: Run, tmp_path: Path, given: str) -> None:
    (run.home / OLD).rename(run.home / NEW)
    (run.home / "config.yaml").unlink()  # nothing else says that this is a run
    source = run.home if given == "run" else run.checkpoint
    assert import_run(source, tmp_path / "model")["labels"] == 4
    assert _check(run, tmp_path / "model").control == CONTROL


def test_the_newer_map_is_read_without_running_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (run.home / OLD).unlink()
    run.maps(NEW, {"x": Evil()})
    with pytest.raises(
        ModelError, match="this map contains an object that could run code"
    ) as caught:
        import_run(run.home, tmp_path / "model")
    assert NEW in str(caught.value.where)
    assert not (tmp_path / "it ran").exists()
    assert not (tmp_path / "model").exists()


def test_a_newer_map_of_another_run_is_named(run: Run, tmp_path: Path) -> None:
    (run.home / OLD).unlink()
    run.maps(NEW, {f"drug{i}": torch.eye(4)[i] for i in range(4)})
    with pytest.raises(ModelError, match="is the control DMSO_TF") as caught:
        import_run(run.home, tmp_path / "model")
    assert NEW in str(caught.value.where)


def test_two_maps_must_agree(run: Run, tmp_path: Path) -> None:
    run.maps(NEW, {name: torch.eye(4)[i] for i, name in enumerate(LABELS)})
    import_run(run.home, tmp_path / "model")
    _check(run, tmp_path / "model")
    run.maps(NEW, {name: torch.eye(4)[3 - i] for i, name in enumerate(LABELS)})
    with pytest.raises(ModelError, match="two maps of perturbations that disagree") as caught:
        import_run(run.home, tmp_path / "again")
    assert caught.value.fix
    assert not (tmp_path / "again").exists()


def test_without_a_map_both_names_are_said(run: Run, tmp_path: Path, caplog: Any) -> None:
    (run.home / OLD).unlink()
    import_run(run.home, tmp_path / "model")
    assert f"no {OLD} or {NEW} was found" in caplog.text


@pytest.mark.parametrize(("second", "close"), [(1.0, True), (1.09, True), (1.11, False)])
def test_a_runner_up_that_is_close_is_named_with_the_option(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    second: float,
    close: bool,
) -> None:
    _h5ad(tmp_path / "mine.h5ad", run.cells(47))
    loss = {"causal": 2.0, "bidirectional": 2.0 * second}
    tried: list[str] = []
    load = arc.load
    noted = lambda *a, **k: (tried.append(k["attention"]), load(*a, **k))[1]  # noqa: E731
    monkeypatch.setattr(attention.arc, "load", noted)
    monkeypatch.setattr(attention, "energy", lambda *_: torch.tensor([loss.get(tried[-1], 9.0)]))
    with caplog.at_level(logging.WARNING, "statetx.inference"):
        best = _chosen(run, tmp_path / "mine.h5ad")
    assert best == ("causal" if second > 1 else best)
    told = "is hardly worse" in caplog.text
    assert told is close
    if close:
        assert "--attention causal" in caplog.text
        assert "--attention bidirectional" in caplog.text
        assert "_rope" not in caplog.text
