"""Training by gradient: what it writes, what it refuses, and that it can be repeated and resumed."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from small_model import small

from statetx.config import ContextMean, PerturbationFolds, PerturbationMean, Tracking
from statetx.core.errors import ModelError
from statetx.data.store.plan import read_plan, write_plan
from statetx.data.store.store import open_store
from statetx.models import model_dir
from statetx.splits.generators.generate import generate
from statetx.training.inputs import stream
from statetx.training.loop import callbacks, trainer
from statetx.training.loop.checkpoints import Checkpoints
from statetx.training.loop.lightning_module import PertSetsModule
from statetx.training.loop.monitors import MONITORS


def _weights(out: Path, name: str = "last") -> dict[str, np.ndarray]:
    return load_file(out / f"{name}.safetensors")


def _equal(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def _curve(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))


def _plan_with(tiny_plan: Path, path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    write_plan(change(read_plan(tiny_plan).table.copy()), path)
    return path


def test_what_training_writes(
    train: Callable[..., Path],
    tiny_store: Path,
    tiny_plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    stale = tmp_path / "run" / "checkpoints" / "step=8.safetensors"
    stale.write_bytes(b"of an earlier training")
    out = train(small(), keep=["best", "step=4"], draw=lambda text, best: f"<svg>{best}</svg>")
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("model.json", "genes.txt", "golden.npz", "metrics.csv", "config.yaml", "curves.svg"),
        *("best.safetensors", "last.safetensors", "step=4.safetensors"),
    }
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == {
        f"step={step}.safetensors" for step in (2, 4, 6)
    }
    assert not (tmp_path / "run.state").exists()
    assert list((tmp_path / "here").iterdir()) == []
    assert capfd.readouterr().err == ""
    meta = json.loads((out / "model.json").read_text())
    plan = read_plan(tiny_plan)
    assert meta["perturbations"] == ["DMSO_TF_00", *plan.perturbations("train")]
    assert meta["attention"] == "bidirectional"
    assert meta["split"]["digest"] == plan.digest
    assert meta["provenance"] == {"run": "run"}
    assert meta["hyper_parameters"]["training"]["lr"] == 1e-3
    for name in ("best", "last", "step=4"):
        loaded = model_dir.load(out, name)
        line = open_store(tiny_store).line("L01")
        cells = line.expression(line.rows("DMSO_TF_00")[:5])
        predicted = loaded.predict(cells, "L01", "Drug01_5").cells
        assert predicted.shape == (5, 60)
        assert (predicted >= 0).all()
    rows = _curve(out)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    measured = {int(row["step"]): float(row["val_loss"]) for row in rows if row["val_loss"]}
    assert list(measured) == [2, 4, 6]
    best = meta["checkpoints"]["best"]
    assert best["step"] == min(measured, key=lambda step: measured[step])
    assert best["val_loss"] == pytest.approx(min(measured.values()), rel=1e-5)
    step = best["step"]
    assert _equal(_weights(out, "best"), load_file(stale.with_name(f"step={step}.safetensors")))
    for row in rows:
        assert float(row["train_loss"]) > 0
        assert float(row["gradient_norm"]) > 0
        assert float(row["cells_per_second"]) > 0


def test_training_learns(train: Callable[..., Path]) -> None:
    out = train(small(max_steps=60, val_freq=20, lr=5e-3, ckpt_every_n_steps=60))
    losses = [float(row["val_loss"]) for row in _curve(out) if row["val_loss"]]
    assert losses[-1] < 0.7 * losses[0]


def test_same_seed_same_weights(train: Callable[..., Path]) -> None:
    torch.manual_seed(1)
    one = train(small(), "one")
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    two = train(small(), "two")
    other = train(small(), "three", seed=1)
    assert _equal(_weights(one), _weights(two))
    assert not _equal(_weights(one), _weights(other))
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's stream is not touched


@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: int
) -> None:
    settings = small(max_steps=8, val_freq=3)
    whole = train(settings, "whole", keep=["best", "step=2"])
    step = PertSetsModule.training_step
    seen: list[int] = []

    def fail(self: PertSetsModule, batch: object, batch_idx: int) -> object:
        seen.append(self.global_step)
        if self.global_step == stop and len(seen) == stop + 1:
            raise RuntimeError("the machine died")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PertSetsModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="the machine died"):
        train(settings, "part")
    assert not (tmp_path / "part" / "model").exists()
    assert (tmp_path / "part.state" / "last.ckpt").exists()
    part = train(settings, "part", keep=["best", "step=2"])
    saved = stop // 2 * 2
    assert seen == [*range(stop + 1), *range(saved, 8)]
    for name in ("best", "last", "step=2"):
        assert _equal(_weights(whole, name), _weights(part, name))
    timeless = [
        [
            {k: v for k, v in row.items() if "second" not in k and k != "waiting"}
            for row in _curve(out)
        ]
        for out in (whole, part)
    ]
    assert timeless[0] == timeless[1]
    assert not (tmp_path / "part.state").exists()


def test_a_failure_after_the_last_step_costs_no_training(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small()
    # As if the model got worse and worse: the best is the first, not the last.
    monkeypatch.setattr(
        callbacks,
        "measure",
        lambda trainer, *_: dict.fromkeys(MONITORS, float(trainer.global_step)),
    )
    whole = train(settings, "whole")
    assert not _equal(_weights(whole, "best"), _weights(whole))
    with monkeypatch.context() as patch:
        patch.setattr(model_dir, "save", lambda *a, **k: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            train(settings, "part")

    def never(self: PertSetsModule, batch: object, batch_idx: int) -> None:
        raise AssertionError("one more step")

    monkeypatch.setattr(PertSetsModule, "training_step", never)
    part = train(settings, "part")
    assert _equal(_weights(whole, "best"), _weights(part, "best"))
    assert _equal(_weights(whole), _weights(part))
    chosen = [json.loads((out / "model.json").read_text())["checkpoints"] for out in (whole, part)]
    assert chosen[0] == chosen[1]


def test_the_state_of_another_training_is_refused(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model_dir, "save", lambda *a, **k: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            train(small())
    with pytest.raises(ModelError, match="resume state belongs to a training with other settings"):
        train(small(lr=2e-3))


def test_without_validation_the_last_is_best(
    train: Callable[..., Path], tiny_plan: Path, tmp_path: Path
) -> None:
    plan = _plan_with(tiny_plan, tmp_path / "p.parquet", lambda t: t[t["role"] != "val"])
    out = train(small(), plan_path=plan)
    assert _equal(_weights(out, "best"), _weights(out, "last"))
    best = json.loads((out / "model.json").read_text())["checkpoints"]["best"]
    assert best == {"step": 6, "why": "the last step: the split has no validation condition"}
    assert all(row["val_loss"] == "" for row in _curve(out))


def test_validation_labels_without_training_are_left_out_and_said(
    train: Callable[..., Path], tiny_plan: Path, tmp_path: Path
) -> None:
    def drop(table: pd.DataFrame) -> pd.DataFrame:  # Drug02_5.0 is validated, never trained
        return table[(table["perturbation"] != "Drug02_5") | (table["role"] == "val")]

    out = train(small(), plan_path=_plan_with(tiny_plan, tmp_path / "p.parquet", drop))
    best = json.loads((out / "model.json").read_text())["checkpoints"]["best"]
    assert best["validation_conditions_without_training_label"] == 1


def test_validation_sets_are_those_of_the_plan_and_the_same_for_all_seeds(
    tiny_store: Path, tiny_plan: Path
) -> None:
    from statetx.training.fit import _task

    tasks = [
        _task(open_store(tiny_store), tiny_plan, small(), seed, (True, False)) for seed in (0, 1)
    ]
    one, two = (stream.validation_batches(task)[0] for task in tasks)
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first.target, second.target)
    used = {tasks[0].vocabulary[i] for batch in one for i in batch.perturbation.tolist()}
    assert used == set(tasks[0].plan.perturbations("val"))


@pytest.mark.parametrize("name", ["step=3", "step=8", "step=", "lst", "step=02"])
def test_a_checkpoint_that_will_not_exist_is_refused_before_training(
    train: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ModelError, match="will not write the checkpoint"):
        train(small(), keep=["best", name])
    assert not (tmp_path / "run").exists()


def test_refusals_before_the_first_step(
    train: Callable[..., Path],
    tiny_plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PertSetsModule, "training_step", None)
    path = tmp_path / "p.parquet"

    def plan(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
        return _plan_with(tiny_plan, path, change)

    only_test = plan(lambda t: t[t["role"] == "test"])
    for model in (small(), ContextMean(kind="context_mean")):
        with pytest.raises(ModelError, match="no training condition"):
            train(model, plan_path=only_test)
    unseen = plan(lambda t: t[(t["role"] == "test") | ~t["perturbation"].str.startswith("Drug01")])
    with pytest.raises(ModelError, match="2 of 2 test perturbations have no training condition"):
        train(small(), plan_path=unseen)
    train(ContextMean(kind="context_mean"), "context", plan_path=unseen)
    with pytest.raises(ModelError, match=r"\('L01', 'Drug99'\), which the store does not contain"):
        row = {"line": "L01", "perturbation": "Drug99", "role": "train", "reason": ""}
        train(small(), plan_path=plan(lambda t: pd.concat([t, pd.DataFrame([row])])))
    with pytest.raises(ModelError, match="lists the control 'DMSO_TF_00'"):
        row = {"line": "L01", "perturbation": "DMSO_TF_00", "role": "train", "reason": ""}
        train(small(), plan_path=plan(lambda t: pd.concat([t, pd.DataFrame([row])])))
    with pytest.raises(ModelError, match="embed_key 'X_embedding'"):
        train(small(embed_key="X_embedding"))
    with pytest.raises(ModelError, match="embed_key None"):
        train(small(embed_key=None))
    assert not (tmp_path / "run" / "model").exists()


def test_a_split_of_unseen_perturbations_is_refused_in_one_block(
    train: Callable[..., Path], tiny_store: Path, tmp_path: Path
) -> None:
    folds = PerturbationFolds(dataset="tiny", generator="perturbation_folds", k=3)
    path = tmp_path / "folds" / "plan.parquet"
    write_plan(generate(open_store(tiny_store).conditions, folds, 0), path)
    labels = read_plan(path).perturbations("test")
    assert len(labels) == 4  # 2 of 6 drugs, 2 doses each
    with pytest.raises(ModelError) as caught:
        train(small(), plan_path=path)
    what, where, fix = str(caught.value).split("\n")  # one line each
    assert "4 of 4 test perturbations have no training condition" in what
    assert all(repr(label) in what for label in labels)
    assert str(path) in where
    assert "use a split that trains on every test perturbation" in fix
    assert not (tmp_path / "run").exists()
    train(PerturbationMean(kind="perturbation_mean"), plan_path=path)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_non_finite_numbers_stop_training_without_a_model(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poison: str
) -> None:
    step = PertSetsModule.training_step

    def spoil(self: PertSetsModule, batch: object, batch_idx: int) -> object:
        if self.global_step == 3:
            bias = self.model.project_out[3].bias
            if poison == "loss":
                bias.data[0] = float("nan")
            else:
                bias.register_hook(lambda gradient: gradient * float("inf"))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PertSetsModule, "training_step", spoil)
    with pytest.raises(ModelError, match=f"{poison}.* at step 4"):
        train(small())
    assert not (tmp_path / "run" / "model").exists()


def test_weight_decay_acts_on_matrices_only(train: Callable[..., Path]) -> None:
    plain = _weights(train(small(dropout=0.0, max_steps=2), "plain"))
    decayed = _weights(train(small(dropout=0.0, max_steps=2, weight_decay=5.0), "decayed"))
    matrix = "transformer_backbone.layers.0.mlp.up_proj.weight"
    norm = "transformer_backbone.norm.weight"
    # Two steps of factor (1 - lr * 5): 1 % of the norm.
    ratio = np.linalg.norm(decayed[matrix]) / np.linalg.norm(plain[matrix])
    assert ratio == pytest.approx((1 - 5e-3) ** 2, abs=2e-3)
    np.testing.assert_allclose(decayed[norm], plain[norm], rtol=2e-3)


def test_gradients_are_clipped_by_norm(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    clip = PertSetsModule.configure_gradient_clipping

    def watch(self: PertSetsModule, *args: object, **kwargs: object) -> None:
        clip(self, *args, **kwargs)
        grads = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        norms.append(torch.stack(grads).norm().item())

    monkeypatch.setattr(PertSetsModule, "configure_gradient_clipping", watch)
    out = train(small(gradient_clip_val=0.01))
    assert max(norms) <= 0.01 * 1.001
    assert all(float(row["gradient_norm"]) > 0.01 for row in _curve(out))  # before clipping
    norms.clear()
    train(small(gradient_clip_val=0), "free")
    assert max(norms) > 0.01


def test_best_weights_of_the_state_survive_until_the_next_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statetx.training.loop.callbacks import Validation

    class Trainer:
        global_step = 4
        is_global_zero = True
        fail = False

        def save_checkpoint(self, path: Path) -> None:
            if self.fail:
                raise OSError("disk full")
            path.write_bytes(b"state")

    validation = Validation([], 1, 9)
    callback = Checkpoints(validation, tmp_path, tmp_path, 1, "this")
    trainer = Trainer()
    for step, failing in ((2, False), (3, True)):
        validation.best_step, validation.best_weights = step, {"w": np.ones(1, np.float32)}
        trainer.fail = failing
        if failing:
            with pytest.raises(OSError, match="disk full"):
                callback._save_state(trainer)  # type: ignore[arg-type]
        else:
            callback._save_state(trainer)  # type: ignore[arg-type]
    assert (tmp_path / "best-2.safetensors").exists()  # the state in place still needs it
    trainer.fail = False
    callback._save_state(trainer)  # type: ignore[arg-type]
    # The state before needs its own until a third one takes its place.
    names = {p.name for p in tmp_path.glob("best-*")}
    assert names == {"best-2.safetensors", "best-3.safetensors"}
    callback._save_state(trainer)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.glob("best-*")] == ["best-3.safetensors"]


def test_wandb_missing_names_the_extra(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    find = trainer.importlib.util.find_spec
    monkeypatch.setattr(
        trainer.importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name)
    )
    with pytest.raises(ModelError, match="wandb is not installed") as caught:
        train(small(), tracking=Tracking(wandb=True))
    assert "statetx[wandb]" in str(caught.value)
