"""What is measured at a validation: numbers by hand, and what is done about them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_model import small

from statetx.core.errors import ModelError
from statetx.data.store.plan import read_plan, write_plan
from statetx.models.network.losses import energy
from statetx.models.network.set_transformer import Prediction
from statetx.training.loop import callbacks
from statetx.training.loop.lightning_module import Batch, PertSetsModule
from statetx.training.loop.monitors import MONITORS, collapse_ratio, discrimination, measure


def _deltas(seed: int = 0, conditions: int = 6, genes: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(conditions, genes))


def test_collapse_is_zero_for_constant_and_one_for_perfect_predictions() -> None:
    real = _deltas()
    constant = np.broadcast_to(real.mean(0), real.shape)
    assert collapse_ratio([np.stack([constant, real])]) == pytest.approx(0, abs=1e-12)
    assert collapse_ratio([np.stack([real, real])]) == 1.0
    assert collapse_ratio([np.stack([0.5 * real + 7.0, real])]) == pytest.approx(0.25)


def test_collapse_is_measured_within_lines() -> None:
    one, two = _deltas(1), _deltas(2, conditions=4)
    # Lines far apart, each constant in itself: collapsed nevertheless.
    lines = [
        np.stack([np.zeros_like(one), one]),
        np.stack([np.full_like(two, 50.0), two]),
    ]
    assert collapse_ratio(lines) == 0.0
    half = [np.stack([one, one]), np.stack([np.zeros_like(two), two])]
    spread = [d.var(axis=0).sum() for d in (one, two)]
    assert collapse_ratio(half) == pytest.approx(spread[0] / sum(spread))
    alone = np.stack([two[:1], two[:1]])  # one condition has no spread
    assert collapse_ratio([*half, alone]) == collapse_ratio(half)
    assert np.isnan(collapse_ratio([alone]))
    assert np.isnan(collapse_ratio([]))


def test_discrimination_of_perfect_inverted_and_constant_predictions() -> None:
    real = _deltas(3)
    assert discrimination(real, real) == [1.0] * 6
    assert discrimination(3.0 * real, real) == [1.0] * 6  # direction, not size
    assert discrimination(np.zeros_like(real), real) == [0.5] * 6
    constant = np.broadcast_to(real.mean(0) + 1.0, real.shape)
    assert np.mean(discrimination(constant, real)) == pytest.approx(0.5)
    basis = np.eye(5)
    assert discrimination(-basis, basis) == [0.0] * 5
    assert discrimination(real[:1], real[:1]) == []


def test_discrimination_by_hand() -> None:
    real = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    predicted = np.array([[1.0, 0.1], [1.0, 0.9], [1.0, 1.0]])
    # 0: nearest to itself. 1: the third is nearer, and the first too. 2: nearest to itself.
    assert discrimination(predicted, real) == [1.0, 0.0, 1.0]
    tied = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    assert discrimination(tied, real)[0] == 0.25  # below none, level with one of two


class Fixed(torch.nn.Module):
    """Stands in for the trained module: adds a fixed number per perturbation to the control."""

    device = torch.device("cpu")

    def __init__(self, shifts: torch.Tensor, decodes: bool = False) -> None:
        super().__init__()
        self.shifts, self.decodes = shifts, decodes
        self.objective = SimpleNamespace(distance=energy)
        self.modes: list[bool] = []

    def measure(self, batch: Batch) -> tuple[torch.Tensor, Prediction]:
        self.modes.append(self.training)
        cells = batch.control + self.shifts[batch.perturbation][:, None]
        return energy(cells, batch.target), Prediction(
            cells, cells[..., :2] if self.decodes else None
        )


def _batches(real: torch.Tensor, decodes: bool = False) -> list[Batch]:
    """Sets of two lines and three perturbations; every condition has two sets."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for line in (0, 1):
        for ids in ([0, 1], [2, 2], [1, 0]):
            control = torch.randn(2, 5, 4, generator=generator) + line
            target = control + real[ids][:, None] + 0.01 * torch.randn(2, 5, 4, generator=generator)
            expression = target[..., :2] if decodes else None
            place = (torch.tensor(ids), torch.full((2,), line))
            out.append(Batch(control, target, *place, None, expression))
    return out


CONTEXT: Any = SimpleNamespace(
    precision_plugin=SimpleNamespace(val_step_context=lambda: torch.inference_mode())
)


def test_a_validation_measures_what_it_says() -> None:
    generator = torch.Generator().manual_seed(3)
    real, shifts = torch.randn(2, 3, 4, generator=generator)
    batches = _batches(real, decodes=True)
    module: Any = Fixed(shifts, decodes=True)
    module.train()
    found = measure(CONTEXT, module, batches)
    assert module.modes == [False] * 6
    assert module.training
    losses = torch.cat([module.measure(batch)[0] for batch in batches])
    assert found["val_loss"] == pytest.approx(losses.mean().item())
    decoded = [energy(module.measure(b)[1].genes, b.expression) for b in batches]
    assert found["val_decoder_loss"] == pytest.approx(torch.cat(decoded).mean().item())
    sums: dict[tuple[int, int], list[np.ndarray]] = {}
    for batch in batches:
        for i, label in enumerate(batch.perturbation.tolist()):
            delta = (batch.target[i].mean(0) - batch.control[i].mean(0)).numpy()
            sums.setdefault((int(batch.line[i]), label), []).append(delta)
    ranks, correlations, lines = [], [], []
    for line in (0, 1):
        # Every condition has two sets; the delta is that of both.
        theirs = np.stack([np.mean(sums[line, label], axis=0) for label in range(3)])
        ours = shifts.numpy().astype(float)
        ranks += discrimination(ours, theirs)
        correlations += [np.corrcoef(*pair)[0, 1] for pair in zip(ours, theirs, strict=True)]
        lines.append((ours.var(0).sum(), theirs.var(0).sum()))
    assert found["val_discrimination"] == pytest.approx(np.mean(ranks))
    assert found["val_pearson_delta"] == pytest.approx(np.mean(correlations), rel=1e-4)
    spread = np.sum(lines, axis=0)
    assert found["val_collapse_ratio"] == pytest.approx(spread[0] / spread[1], rel=0.2)
    assert set(found) == {*MONITORS, "val_decoder_loss"}


def test_a_perfect_and_a_collapsed_network() -> None:
    real = torch.randn(3, 4, generator=torch.Generator().manual_seed(4))
    perfect = measure(CONTEXT, Fixed(real), _batches(real))  # type: ignore[arg-type]
    assert perfect["val_loss"] < 0.01
    assert perfect["val_pearson_delta"] > 0.999
    assert perfect["val_discrimination"] == 1.0
    assert perfect["val_collapse_ratio"] == pytest.approx(1.0, abs=0.05)
    assert np.isnan(perfect["val_decoder_loss"])
    same = measure(CONTEXT, Fixed(torch.ones(3, 4)), _batches(real))  # type: ignore[arg-type]
    assert same["val_collapse_ratio"] < 1e-10
    # The same for all, but for rounding: no better than chance.
    assert same["val_discrimination"] == pytest.approx(0.5)
    inverted = measure(CONTEXT, Fixed(-real), _batches(real))  # type: ignore[arg-type]
    assert inverted["val_pearson_delta"] < -0.99
    assert inverted["val_discrimination"] < 0.5
    one = _batches(real)[1:2]
    single = measure(CONTEXT, Fixed(real), one)  # type: ignore[arg-type]
    assert np.isnan(single["val_discrimination"])
    assert np.isnan(single["val_collapse_ratio"])


def _script(monkeypatch: pytest.MonkeyPatch, **values: list[float]) -> list[int]:
    """Let validations measure these values, one after the other; returns the steps measured."""
    steps: list[int] = []

    def told(trainer: Any, *_: object) -> dict[str, float]:
        steps.append(trainer.global_step)
        found = dict.fromkeys([*MONITORS, "val_decoder_loss"], 0.5)
        return found | {name: row[len(steps) - 1] for name, row in values.items()}

    monkeypatch.setattr(callbacks, "measure", told)
    return steps


def _chosen(out: Path) -> dict[str, Any]:
    return json.loads((out / "model.json").read_text())["checkpoints"]


@pytest.mark.parametrize(
    ("monitor", "best"),
    [
        *(("val_loss", 4), ("val_pearson_delta", 8)),
        *(("val_discrimination", 8), ("val_collapse_ratio", 8)),
    ],
)
def test_the_best_is_the_smallest_loss_or_the_largest_of_the_others(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, monitor: str, best: int
) -> None:
    row = [0.5, 0.1, 0.3, 0.9, 0.9]  # an equal value later is no better
    others = [0.9, 0.8, 0.1, 0.2, 0.3]
    _script(monkeypatch, **(dict.fromkeys(MONITORS, others) | {monitor: row}))
    out = train(small(max_steps=10, monitor=monitor), keep=["best", f"step={best}"])
    found = _chosen(out)["best"]
    assert found["step"] == best
    assert found[monitor] == row[best // 2 - 1]
    assert monitor in found["why"]
    weights = [load_file(out / f"{name}.safetensors") for name in ("best", f"step={best}")]
    assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(
    ("monitor", "reason"),
    [
        ("val_discrimination", "no line has two that validate"),
        ("val_pearson_delta", "predicted or real deltas were constant"),
    ],
)
def test_a_monitor_that_is_nowhere_defined_keeps_the_last_and_says_so(
    train: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    monitor: str,
    reason: str,
) -> None:
    _script(monkeypatch, **{monitor: [float("nan")] * 3})
    out = train(small(monitor=monitor))
    why = _chosen(out)["best"]["why"]
    assert f"{monitor} was not defined (NaN) at any of 3 validations" in why
    assert reason in why
    assert "no validation condition" not in why
    assert why in caplog.text
    assert caplog.text.count(f"step 2: {monitor} is not defined (NaN)") == 1
    assert f"step 4: {monitor} is not" not in caplog.text
    weights = [load_file(out / f"{name}.safetensors") for name in ("best", "last")]
    assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert _chosen(out)["best"]["step"] == 6


def test_patience_stops_and_writes_a_model(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _script(monkeypatch, val_loss=[0.5, 0.4, 0.45, 0.4, 0.39, 0.1])
    out = train(small(max_steps=100, patience=2))
    assert steps == [2, 4, 6, 8]
    found = _chosen(out)
    assert found["best"]["step"] == 4
    assert found["last"]["step"] == 8
    assert "no better val_loss" in found["last"]["why"]
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert int(rows[-1]["step"]) == 8


def test_a_checkpoint_of_a_step_after_the_last_is_refused_with_the_reason(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _script(monkeypatch, val_loss=[0.5, 0.4, 0.45, 0.4, 0.39, 0.1])
    settings = small(max_steps=100, patience=2)
    with pytest.raises(
        ModelError, match=r"no checkpoint 'step=10': training stopped at step 8"
    ) as e:
        train(settings, keep=["best", "step=10"])
    assert "after 2 validations without a better val_loss" in e.value.what
    assert e.value.where == "training.patience"
    assert "a step up to 8" in str(e.value.fix)
    assert not (tmp_path / "run" / "model").exists()

    def never(self: PertSetsModule, batch: Any, batch_idx: int) -> None:
        raise AssertionError("one more step")

    monkeypatch.setattr(PertSetsModule, "training_step", never)  # what was learnt is kept
    out = train(settings, keep=["best", "step=8"])
    assert _chosen(out)["step=8"]["step"] == _chosen(out)["last"]["step"] == 8


def test_a_monitor_of_one_perturbation_in_a_line_is_named_in_the_model(
    train: Callable[..., Path], tiny_plan: Path, tmp_path: Path
) -> None:
    """Not scripted: a plan that validates one condition."""
    table = read_plan(tiny_plan).table.copy()
    spare = table.index[table["role"] == "val"][1:]
    table.loc[spare, "role"] = "train"
    write_plan(table, tmp_path / "plan.parquet")
    out = train(small(monitor="val_collapse_ratio"), plan_path=tmp_path / "plan.parquet")
    assert "no line has two that validate" in _chosen(out)["best"]["why"]


def test_a_better_measurement_renews_the_patience(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _script(monkeypatch, val_loss=[0.5, 0.6, 0.4, 0.6, 0.3, 0.6, 0.7])
    train(small(max_steps=100, patience=2))
    assert steps == [2, 4, 6, 8, 10, 12, 14]


def test_a_collapse_that_lasts_stops_without_a_model(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = _script(monkeypatch, val_collapse_ratio=[0.0, 0.01, 0.2, 0.04, 0.03, 0.02, 0.9])
    with pytest.raises(ModelError, match="the model collapsed: at step 12") as caught:
        train(small(max_steps=14, collapse_below=0.05))
    assert steps == [2, 4, 6, 8, 10, 12]
    assert "0.02 of the real one" in str(caught.value)
    assert caught.value.where == "training.collapse_below"
    assert "lower lr" in str(caught.value.fix)
    assert not (tmp_path / "run" / "model").exists()


def test_a_collapse_in_the_first_tenth_or_without_the_setting_is_none(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _script(monkeypatch, val_collapse_ratio=[0.0] * 3 + [0.5] * 27)
    train(small(max_steps=60, collapse_below=0.05))
    assert len(steps) == 30
    steps = _script(monkeypatch, val_collapse_ratio=[0.0] * 5)
    train(small(max_steps=10), "other")
    assert len(steps) == 5


def test_a_loss_that_is_not_finite_stops(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _script(monkeypatch, val_loss=[0.5, float("nan")])
    with pytest.raises(ModelError, match="the validation loss is nan after step 4"):
        train(small())
    assert not (tmp_path / "run" / "model").exists()


def test_a_training_that_patience_ended_is_not_taken_up_again(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the disk was full when the model was written."""
    from statetx.models import model_dir

    settings = small(max_steps=100, patience=2)
    row = [0.5, 0.4, 0.45, 0.42, 0.1, 0.1, 0.1]
    _script(monkeypatch, val_loss=row)
    whole = train(settings, "whole")
    _script(monkeypatch, val_loss=row)
    with monkeypatch.context() as patch:
        patch.setattr(model_dir, "save", lambda *a, **k: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            train(settings, "part")
    _script(monkeypatch, val_loss=row[4:])
    taken: list[int] = []
    step = PertSetsModule.training_step

    def watched(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        taken.append(self.global_step)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PertSetsModule, "training_step", watched)
    part = train(settings, "part")
    assert taken == []
    assert _chosen(part) == _chosen(whole)
