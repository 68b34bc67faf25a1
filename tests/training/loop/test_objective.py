"""What is minimised, and what a step does with its fit_network."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_model import small

from statetx.config.models import Training
from statetx.core.errors import ModelError
from statetx.data.store.store import open_store
from statetx.models import model_dir
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.decoder import DecoderShape
from statetx.models.network.losses import LOSSES, chunked
from statetx.models.network.set_transformer import PertSets, Prediction
from statetx.training.loop.lightning_module import Batch, Objective, PertSetsModule
from statetx.training.loop.trainer import make_trainer

EMBEDDED = {"embed_key": "X_embedding", "gene_decoder": {"hidden_dims": [12, 8], "dropout": 0.0}}


def _weights(out: Path, name: str = "last") -> dict[str, np.ndarray]:
    return load_file(out / f"{name}.safetensors")


def _architecture(**changes: Any) -> Architecture:
    shape = Shape(16, 1, 2, 8, 24)
    return replace(Architecture(6, 6, 5, shape, 2, 2, dropout=0.0), **changes)


def _batch(sets: int = 4, seed: int = 0, genes: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    control, target = (torch.rand(sets, 7, 6, generator=generator) for _ in range(2))
    ids = torch.arange(sets) % 5
    expression = None if genes is None else torch.rand(sets, 7, genes, generator=generator)
    return Batch(control, target, ids, torch.zeros_like(ids), None, expression)


def _predicted(batch: Batch, **parts: Any) -> Prediction:
    cells = (batch.control + 0.3).requires_grad_()
    return Prediction(cells, **parts)


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    batch = _batch(genes=9)
    genes, confidence = torch.rand(4, 7, 9), torch.tensor([1.0, 0.0, 2.0, 0.5])
    predicted = _predicted(batch, genes=genes, confidence=confidence)
    assert batch.expression is not None
    for name, loss in LOSSES.items():
        objective = Objective(name, decoder_weight=0.3, regularization=0.2)
        total, main, decoder = objective.total(predicted, batch)
        each, theirs = loss(predicted.cells, batch.target), loss(genes, batch.expression)
        moved = (predicted.cells - batch.control).abs().mean()
        expected = each.mean() + 0.3 * theirs.mean() + 0.2 * moved
        # The token is to tell ten times the loss of its set; the loss is not to fit the token.
        expected = expected + 0.01 * ((confidence - 10 * each.detach()) ** 2).mean()
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(main, each.mean())
        torch.testing.assert_close(decoder, theirs.mean())
        gradients = [torch.autograd.grad(x, predicted.cells)[0] for x in (total, expected)]
        torch.testing.assert_close(*gradients)
    parts = Objective("energy", chunks=3).distance(predicted.cells, batch.target)
    torch.testing.assert_close(parts, chunked(LOSSES["energy"], predicted.cells, batch.target, 3))


@pytest.mark.parametrize("name", ["energy", "mse"])
def test_rows_that_are_no_cells_have_no_part_in_any_term(name: str) -> None:
    batch = _batch(genes=6)
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[:2, 5:] = False
    masked = batch._replace(mask=mask)
    objective = Objective(name, regularization=0.5)
    cells = (batch.control + 0.3).requires_grad_()
    predicted = Prediction(cells, cells * 2)
    total, _, _ = objective.total(predicted, masked)
    (gradient_,) = torch.autograd.grad(total, cells)
    assert (gradient_[~mask] == 0).all()
    other = torch.where(mask[..., None], cells, 50.0)
    again, _, _ = objective.total(Prediction(other, other * 2), masked)
    torch.testing.assert_close(again, total, rtol=0, atol=0)


class _Halves:
    """Gives the same sets to every training, in batches of a fraction of the size."""

    def __init__(self, batches: list[Batch], parts: int) -> None:
        self.batches = [
            Batch(*(None if t is None else t.chunk(parts)[i] for t in batch))
            for batch in batches
            for i in range(parts)
        ]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def _fit(home: Path, parts: int, batches: list[Batch], **training: Any) -> PertSetsModule:
    torch.manual_seed(0)
    settings = Training(max_steps=len(batches), accumulate=parts, lr=1e-2, **training)
    module = PertSetsModule(PertSets(_architecture()), settings, 0, Objective("energy"))
    trainer = make_trainer(settings, home, None, [])
    trainer.fit(module, _Halves(batches, parts))
    assert trainer.global_step == len(batches)
    return module


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_equal_one_large_batch(parts: int, tmp_path: Path) -> None:
    batches = [_batch(seed=seed) for seed in range(5)]
    # The scale of Adam's steps is blind to that of the gradient; a tight clip is not.
    for clip in (10.0, 0.02):
        whole, split = (
            _fit(tmp_path, n, batches, ema_decay=0.5, warmup_steps=3, gradient_clip_val=clip)
            for n in (1, parts)
        )
        for one, two in zip(whole.parameters(), split.parameters(), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)
        assert split.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-3)
        mean = np.mean([main for main, _ in split.finished[-parts:]])
        assert mean == pytest.approx(whole.finished[-1][0], rel=1e-4)


def test_training_with_accumulation_counts_optimiser_steps(train: Callable[..., Path]) -> None:
    out = train(small(max_steps=4, accumulate=3, val_freq=2), keep=["best", "step=2"])
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert [bool(row["val_loss"]) for row in rows] == [False, True, False, True]


def test_weight_decay_is_for_matrices_only() -> None:
    architecture = _architecture(
        decoder=DecoderShape("plain", 6, 9, (8,)),
        batch_encoder=True,
        batch_token=True,
        batch_dim=3,
        confidence_token=True,
        use_basal_projection=False,
    )
    module = PertSetsModule(PertSets(architecture), Training(weight_decay=0.1), 0)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    names = {id(p): name for name, p in module.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert decayed | spared == set(names.values())
    # What decay would draw to 0 is no weight of a product: one vector for each batch, or a token.
    vectors = ("bias", "norm.weight", "layernorm.weight", "decoder.1.weight")
    vectors += ("confidence_projection.1.weight", "confidence_projection.5.weight")
    vectors += ("model.batch_token", "confidence_token.confidence_token", "batch_encoder.weight")
    assert spared == {name for name in names.values() if name.endswith(vectors)}
    assert {"model.pert_encoder.0.weight", "model.batch_classifier.0.weight"} < decayed


def test_no_decay_is_the_adam_of_the_original() -> None:
    torch.manual_seed(0)
    module = PertSetsModule(PertSets(_architecture()), Training(lr=1e-2), 0)
    other = PertSets(_architecture())
    other.load_state_dict(module.model.state_dict())
    ours, adam = module.configure_optimizers(), torch.optim.Adam(other.parameters(), lr=1e-2)
    for seed in range(4):
        batch = _batch(seed=seed)
        for model, optimizer in ((module.model, ours), (other, adam)):
            optimizer.zero_grad()
            total, _, _ = Objective().total(model(batch.control, batch.perturbation), batch)
            total.backward()
            optimizer.step()
    for one, two in zip(module.model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        *({"loss": name} for name in LOSSES),
        {"loss_chunks": 3, "regularization": 0.5, "confidence_token": True},
        {"dropout_per_cell": True, "sets": {"short": "mask"}},
        {**EMBEDDED, "loss": "se"},
    ],
    ids=str,
)
def test_every_objective_trains_two_steps(
    train: Callable[..., Path], changes: dict[str, Any]
) -> None:
    out = train(small(max_steps=2, **changes))
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert all(np.isfinite(float(row["train_loss"])) for row in rows)
    assert all(float(row["gradient_norm"]) > 0 for row in rows)
    assert bool(rows[0]["train_decoder_loss"]) == ("gene_decoder" in changes)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_gene_decoder_is_trained_and_its_model_predicts_genes(
    train: Callable[..., Path], tiny_store: Path, kind: str
) -> None:
    decoder = {"kind": kind, "hidden_dims": [12, 12], "dropout": 0.0, "weight": 2.0}
    settings = small(
        max_steps=80, val_freq=40, lr=5e-3, embed_key="X_embedding", gene_decoder=decoder
    )
    out = train(settings)
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    losses = [float(row["train_decoder_loss"]) for row in rows]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert float(rows[-1]["val_decoder_loss"]) > 0
    store, model = open_store(tiny_store), model_dir.load(out)
    line = store.line("L01")
    rows_ = line.rows(store.control)[:6]
    embedding = line.embedding("X_embedding", rows_)
    predicted = model.predict(embedding, "L01", "Drug01_5")
    assert model.takes_embedding
    assert predicted.cells.shape == (6, len(store.genes))
    assert (predicted.cells >= 0).all()
    assert predicted.embedding is not None
    assert predicted.embedding.shape == embedding.shape
    assert (predicted.embedding < 0).any()
    with pytest.raises(ModelError, match="basal cells have shape"):
        model.predict(line.expression(rows_), "L01", "Drug01_5")
    # Decoded cells resemble expression: nearer to the real mean than zero is.
    real = line.expression(line.rows("Drug01_5")).mean(0)
    assert np.linalg.norm(predicted.cells.mean(0) - real) < 0.7 * np.linalg.norm(real)


def test_a_confidence_token_learns_the_loss_of_its_set(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    module = PertSetsModule(
        PertSets(_architecture(confidence_token=True)), Training(lr=1e-2), 0, Objective("energy")
    )
    optimizer, batch = module.configure_optimizers(), _batch(sets=5)
    batch = batch._replace(target=batch.target * torch.arange(1.0, 6.0)[:, None, None])
    for _ in range(100):
        optimizer.zero_grad()
        module.objective.total(module.model(batch.control, batch.perturbation), batch)[0].backward()
        optimizer.step()
    predicted = module.model(batch.control, batch.perturbation)
    told = 10 * module.objective.distance(predicted.cells, batch.target)
    assert predicted.confidence is not None
    assert torch.corrcoef(torch.stack([predicted.confidence, told]))[0, 1] > 0.8
    out = train(small(confidence_token=True))
    assert json.loads((out / "model.json").read_text())["architecture"]["confidence_token"]
    assert "confidence_token.confidence_token" in _weights(out)


def test_dropout_per_cell_differs_between_cells_in_training_only() -> None:
    torch.manual_seed(0)
    plain = PertSets(_architecture(dropout=0.5))
    each = PertSets(_architecture(dropout=0.5, dropout_per_cell=True))
    each.load_state_dict(plain.state_dict())
    ids, control = torch.tensor([1, 3]), torch.zeros(2, 4, 6)
    seen: list[torch.Tensor] = []
    for model in (plain, each):
        model.pert_encoder.register_forward_hook(lambda _, __, out: seen.append(out))
        model.pert_encoder[-1].register_forward_hook(lambda _, __, out: seen.append(out))
        model.train()(control, ids)
    shapes = [tuple(out.shape) for out in seen]
    assert shapes[0] == (2, 16)
    assert shapes[-1] == (2, 4, 16)
    assert (seen[-1][:, 0] != seen[-1][:, 1]).any()
    with torch.no_grad():
        torch.testing.assert_close(
            each.eval()(control, ids).cells, plain.eval()(control, ids).cells
        )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_with_nan_stops_and_is_kept_without_a_model(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accumulate: int
) -> None:
    step, bad = PertSetsModule.training_step, []

    def spoil(self: PertSetsModule, batch: Batch, batch_idx: int) -> Any:
        if batch_idx == 3:
            batch.target[1, 2, 0] = torch.nan
            bad.append(batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PertSetsModule, "training_step", spoil)
    number = 3 // accumulate + 1
    with pytest.raises(ModelError, match=f"training loss is nan at step {number}") as caught:
        train(small(accumulate=accumulate))
    assert "bad_batch.pt" in str(caught.value.fix)
    assert not (tmp_path / "run" / "model").exists()
    kept = torch.load(tmp_path / "run.state" / "bad_batch.pt", weights_only=True)
    assert set(kept) == {"control", "target", "perturbation", "line"}
    torch.testing.assert_close(kept["target"], bad[0].target, equal_nan=True)
    assert torch.equal(kept["perturbation"], bad[0].perturbation)
    monkeypatch.setattr(PertSetsModule, "training_step", step)
    assert (train(small(accumulate=accumulate)) / "model.json").is_file()  # mended: it goes on
