"""Networks that learn of batches: whose they are, what is learnt, and which are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file
from small_model import small
from torch.nn import functional

from statetx.core.errors import DataError, ModelError
from statetx.data.sets.loader import SetLoader
from statetx.data.store.plan import read_plan, write_plan
from statetx.data.store.store import open_store
from statetx.inference.infer import infer
from statetx.inference.predict import predict
from statetx.models import model_dir
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.set_transformer import PertSets
from statetx.training import fit_network
from statetx.training.fit import _task
from statetx.training.inputs import stream
from statetx.training.inputs.covariates import with_covariates
from statetx.training.loop.lightning_module import BATCH_WEIGHT, Batch, Objective, PertSetsModule

TOKEN = {"batches": "token", "sets": {"within_batch": True}}
ENCODER = {"batches": "encoder"}


def _plates(store: Path) -> list[str]:
    return sorted(open_store(store).conditions["batch"].unique())


def _weights(out: Path, name: str = "last") -> dict[str, np.ndarray]:
    return load_file(out / f"{name}.safetensors")


@pytest.fixture(scope="module")
def encoder(tiny_store: Path, tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory of a network with an embedding of batches."""
    from statetx.training.fit import fit

    home = tmp_path_factory.mktemp("encoder")
    places = (home / "model", home / "state", home / "checkpoints")
    fit(tiny_store, tiny_plan, small(max_steps=10, **ENCODER), 0, *places)
    return home / "model"


@pytest.mark.parametrize("short", ["replace", "mask"])
def test_ids_are_those_of_the_real_cells_not_of_their_controls(
    tiny_store: Path, tiny_plan: Path, short: str
) -> None:
    store, plan = open_store(tiny_store), read_plan(tiny_plan)
    names = ["another", *reversed(_plates(tiny_store))]
    loader = SetLoader(
        *(store, plan, "train", [store.control, *plan.perturbations("train")]),
        cell_set_len=24,
        batch_size=4,
        sets=small(sets={"short": short}).sets,
        match_by_batch=(False,),
        embed_key="X_hvg",
        batches=names,
    )
    mixed = crossed = 0
    for batch in loader.epoch(0):
        assert batch.batches is not None
        assert batch.batches.dtype == torch.int64
        for i, line in enumerate(batch.line.tolist()):
            cells = store.line(loader.lines[line])
            real, basal = (cells.batches(rows[i]) for rows in (batch.rows, batch.control_rows))
            assert [names[n] for n in batch.batches[i].tolist()] == real.tolist()
            mixed += len(set(real)) > 1
            crossed += bool((real != basal).any())
    assert mixed, "sets of controls come from both plates"
    assert crossed, "or the batch of the control would have passed for that of the cell"


def test_without_being_asked_a_loader_gives_no_ids(tiny_store: Path, tiny_plan: Path) -> None:
    store, plan = open_store(tiny_store), read_plan(tiny_plan)
    vocabulary = [store.control, *plan.perturbations("train")]
    loader = SetLoader(store, plan, "train", vocabulary, cell_set_len=8, batch_size=4)
    assert next(iter(loader.epoch(0))).batches is None


def _network(**changes: Any) -> PertSets:
    torch.manual_seed(0)
    values: dict[str, Any] = {"dropout": 0.0, "batch_dim": 3, **changes}
    return PertSets(Architecture(6, 6, 5, Shape(16, 1, 2, 8, 24), **values))


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    control, target = (torch.rand(4, 7, 6, generator=generator) for _ in range(2))
    ids = torch.arange(4)
    return Batch(control, target, ids, torch.zeros_like(ids))


class _Once:
    """Gives one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch])


def test_gradients_reach_the_embedding_of_the_batches_that_are_there(tmp_path: Path) -> None:
    network = _network(batch_encoder=True)
    module = PertSetsModule(network, small(max_steps=1).training, 0)
    ids = torch.tensor([[0, 2, 2, 0, 0, 2, 0]] * 4)
    before = network.batch_encoder.weight.detach().clone()
    trainer = fit_network.make_trainer(module.settings, tmp_path, None, [])
    trainer.fit(module, _Once(_batch()._replace(batches=ids)))
    moved = (network.batch_encoder.weight != before).all(1).tolist()
    assert moved == [True, False, True]


def test_a_token_is_taught_the_batch_of_its_set_with_a_tenth_of_the_weight() -> None:
    network = _network(batch_token=True)
    own = torch.tensor([2, 0, 1, 2])
    batch = _batch()._replace(batches=own[:, None].expand(4, 7))
    predicted = network(batch.control, batch.perturbation, batch.batches)
    assert predicted.batch_logits is not None
    with_token, main, _ = Objective().total(predicted, batch)
    wrong = functional.cross_entropy(predicted.batch_logits, own)
    torch.testing.assert_close(with_token, main + 0.1 * wrong)
    assert BATCH_WEIGHT == 0.1
    (with_token - main).backward()
    for part in (network.batch_token, network.batch_classifier[0].weight):
        assert part.grad is not None
        assert part.grad.abs().max() > 0


def test_predictions_differ_by_batch_and_the_model_says_which_it_knows(
    encoder: Path, tiny_store: Path
) -> None:
    plates = _plates(tiny_store)
    meta = json.loads((encoder / "model.json").read_text())
    assert meta["batches"] == plates
    assert meta["architecture"]["batch_dim"] == len(plates) == 2
    assert meta["hyper_parameters"]["batches"] == "encoder"
    for name in ("best", "last"):
        loaded = model_dir.load(encoder, name)
        assert loaded.needs_batches
        line = open_store(tiny_store).line("L01")
        cells = line.expression(line.rows("DMSO_TF_00")[:5])
        one, two = (
            loaded.predict(cells, "L01", "Drug01_5", np.array([plate] * 5)).cells
            for plate in plates
        )
        assert np.abs(one - two).max() > 1e-3
        mixed = np.array([plates[0]] * 2 + [plates[1]] * 3)
        three = loaded.predict(cells, "L01", "Drug01_5", mixed).cells
        assert np.abs(three - one).max() > 1e-3
    untrained = PertSets(Architecture.from_json(meta["architecture"]))
    assert untrained.batch_encoder.weight.shape == _weights(encoder)["batch_encoder.weight"].shape


def test_an_embedding_learns_what_a_plate_does(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ids of plates that were drawn anew for every set, there is less to learn."""
    settings = small(max_steps=60, lr=5e-3, val_freq=60, ckpt_every_n_steps=60, **ENCODER)
    plate = stream.as_batch

    def shifted(batch: Any) -> Batch:
        told = plate(batch)
        assert told.batches is not None
        return told._replace(target=told.target + 2.0 * told.batches[..., None])

    def shuffled(batch: Any) -> Batch:
        told = shifted(batch)
        assert told.batches is not None
        return told._replace(batches=torch.randint(0, 2, (len(told.target), 1)).expand(-1, 8))

    losses = []
    for name, how in (("known", shifted), ("unknown", shuffled)):
        with monkeypatch.context() as patch:
            patch.setattr(stream, "as_batch", how)
            rows = (train(settings, name) / "metrics.csv").read_text().splitlines()
        losses.append(float(rows[-1].split(",")[1]))
    assert losses[0] < 0.7 * losses[1]


@pytest.mark.parametrize("settings", [ENCODER, TOKEN], ids=["encoder", "token"])
def test_a_resumed_training_ends_in_the_same_bits(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    model = small(max_steps=8, val_freq=3, ema_decay=0.4, weight_decay=0.1, **settings)
    whole = train(model, "whole")
    step = PertSetsModule.training_step

    def fail(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 5:
            raise RuntimeError("the machine died")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PertSetsModule, "training_step", fail)
        with pytest.raises(RuntimeError, match="the machine died"):
            train(model, "part")
    part = train(model, "part")
    for name in ("best", "last"):
        one, two = _weights(whole, name), _weights(part, name)
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)
    assert {"batch_encoder.weight", "batch_token"} & one.keys()


def test_a_token_needs_no_batch_at_prediction_and_learns_to_tell_it(
    train: Callable[..., Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    long = {"max_steps": 600, "val_freq": 600, "ckpt_every_n_steps": 600, "lr": 1e-2}
    out = train(small(dropout=0.0, **long, **TOKEN))
    loaded = model_dir.load(out, "last")
    assert loaded.meta["batches"] == _plates(tiny_store)
    assert not loaded.needs_batches
    store, network = open_store(tiny_store), loaded.predictor.model  # type: ignore[attr-defined]
    table, right = store.conditions[~store.conditions["is_control"]], []
    for line, label, plate in table[["line", "perturbation", "batch"]].itertuples(index=False):
        cells = store.line(line)
        basal = cells.expression(np.arange(*cells.run(store.control, plate))[:8])
        given = torch.tensor([loaded.perturbations.index(label)])
        with torch.no_grad():
            logits = network(torch.from_numpy(basal)[None], given).batch_logits
        right.append(int(logits.argmax()) == loaded.meta["batches"].index(plate))
    assert np.mean(right) > 0.75
    asked = {"line": "L01", "checkpoint": "best", "max_cells": 20, "seed": 0}
    predict(out, tiny_store, tiny_plan, out=tmp_path / "p.h5ad", **asked)  # type: ignore[arg-type]
    assert anndata.read_h5ad(tmp_path / "p.h5ad").n_obs > 0


def test_predict_and_infer_give_each_cell_its_own_batch(
    encoder: Path, tiny_store: Path, tiny_plan: Path, tiny_source: Path, tmp_path: Path
) -> None:
    asked = {"line": "L01", "checkpoint": "best", "max_cells": 1500, "seed": 0}
    predict(encoder, tiny_store, tiny_plan, out=tmp_path / "p.h5ad", **asked)  # type: ignore[arg-type]
    infer(encoder, tiny_source / "L01.h5ad", tmp_path / "i.h5ad")
    loaded, cells = model_dir.load(encoder), open_store(tiny_store).line("L01")
    row_of = {name: row for row, name in enumerate(cells.barcodes)}
    for name in ("p", "i"):
        found = anndata.read_h5ad(tmp_path / f"{name}.h5ad")
        assert set(found.obs["batch"]) == set(_plates(tiny_store))
        keys = ["perturbation", "set_id"]
        for (label, _), block in found.obs.groupby(keys, observed=True):
            rows = np.array([row_of[name] for name in block["control_barcode"]])
            given = (cells.expression(rows), "L01", str(label), block["batch"].to_numpy())
            expected = loaded.predict(*given).cells
            np.testing.assert_allclose(found[block.index].X, expected, rtol=1e-5, atol=1e-6)


def test_batches_that_were_never_trained_are_one_error_before_anything_is_predicted(
    encoder: Path, tiny_source: Path, tiny_store: Path, tmp_path: Path
) -> None:
    mine = anndata.read_h5ad(tiny_source / "L01.h5ad")
    plates = _plates(tiny_store)
    renamed = {plates[0]: f"{plates[0]}x", plates[1]: "elsewhere"}
    mine.obs["batch"] = mine.obs["batch"].astype(str).map(renamed)
    mine.write_h5ad(tmp_path / "mine.h5ad")
    with pytest.raises(ModelError, match="not trained on 2 of 2 batches") as caught:
        infer(encoder, tmp_path / "mine.h5ad", tmp_path / "out.h5ad")
    assert "'elsewhere'" in caught.value.what
    assert "batch_col" in str(caught.value.fix)
    mine.obs["batch"] = f"{plates[0]}x"
    mine.write_h5ad(tmp_path / "mine.h5ad")
    with pytest.raises(ModelError, match="not trained on 1 of 1 batches") as caught:
        infer(encoder, tmp_path / "mine.h5ad", tmp_path / "out.h5ad")
    assert f"did you mean {plates[0]!r}?" in str(caught.value.fix)
    mine.obs = mine.obs.rename(columns={"batch": "batches"})
    mine.write_h5ad(tmp_path / "mine.h5ad")
    with pytest.raises(DataError, match="no obs column 'batch': this model needs") as caught_data:
        infer(encoder, tmp_path / "mine.h5ad", tmp_path / "out.h5ad")
    assert "did you mean 'batches'?" in str(caught_data.value.fix)
    with pytest.raises(ModelError, match="not trained on batch 'plate9'"):
        model_dir.load(encoder).predict(np.zeros((1, 60)), "", "Drug01_5", np.array(["plate9"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.h5ad"]


def _plan(tiny_plan: Path, tmp_path: Path, role: str) -> Path:
    """Conditions of dose 5, all of them on the second plate, have one role; the others train."""
    table = read_plan(tiny_plan).table.copy()
    held = table["perturbation"].str.endswith("_5")
    table["role"] = np.where(held, role, "train")
    if role == "val":
        table = pd.concat([table[held].iloc[:3], table[~held]])
        table.loc[table.index[-1], "role"] = "val"
    write_plan(table.sort_values(["line", "perturbation"]), tmp_path / "plan.parquet")
    return tmp_path / "plan.parquet"


def _features(store: Path, path: Path) -> str:
    labels = sorted(open_store(store).conditions["perturbation"].unique())
    values = np.random.default_rng(0).normal(size=(len(labels), 3))
    pd.DataFrame(values, index=pd.Index(labels, name="label")).to_csv(path)
    return str(path)


def test_batches_that_no_set_trains_on_are_refused_before_training(
    train: Callable[..., Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    known = {"perturbation_features_file": _features(tiny_store, tmp_path / "f.csv"), **ENCODER}
    plan, plates = _plan(tiny_plan, tmp_path, "test"), _plates(tiny_store)
    with pytest.raises(ModelError, match="cells of 1 batches without a training set") as caught:
        train(small(sets={"control_sets": "none"}, **known), plan_path=plan)
    assert repr(plates[1]) in caught.value.what
    assert repr(plates[0]) in str(caught.value.fix)
    assert not (tmp_path / "run").exists()
    # Control cells of that plate are enough to learn its embedding.
    out = train(small(**known), plan_path=plan)
    assert json.loads((out / "model.json").read_text())["batches"] == plates


def test_validation_conditions_of_batches_that_are_not_trained_are_left_out_and_said(
    train: Callable[..., Path],
    tiny_store: Path,
    tiny_plan: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = small(
        sets={"control_sets": "none"},
        perturbation_features_file=_features(tiny_store, tmp_path / "f.csv"),
        **ENCODER,
    )
    plan = _plan(tiny_plan, tmp_path, "val")
    task = with_covariates(_task(open_store(tiny_store), plan, model, 0, (True, False)))
    batches, without = stream.validation_batches(task)
    measured = {task.vocabulary[i] for batch in batches for i in batch.perturbation.tolist()}
    assert len(measured) == 1
    assert not any(label.endswith("_5") for label in measured)
    assert without["validation_conditions_of_untrained_batches"] == 3
    assert "3 of 4 validation conditions have cells of a batch" in caplog.text
    said = json.loads((train(model, plan_path=plan) / "model.json").read_text())
    assert said["checkpoints"]["best"]["validation_conditions_of_untrained_batches"] == 3


def test_a_token_of_sets_that_mix_batches_is_no_setting() -> None:
    with pytest.raises(ValidationError, match=r"set sets\.within_batch to true"):
        small(batches="token")
    with pytest.raises(ValidationError, match="batches"):
        small(batches="both")


def test_embeddings_and_tokens_leave_the_precision_of_the_stream_alone() -> None:
    """They are float32; with them, a network under autocast would work in float32 altogether."""
    network = _network(batch_encoder=True, batch_token=True, confidence_token=True)
    seen: list[torch.dtype] = []
    network.transformer_backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype))
    batch = _batch()
    ids = torch.zeros(4, 7, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = network(batch.control, batch.perturbation, ids)
        Objective().total(predicted, batch._replace(batches=ids))[0].backward()
    assert seen == [torch.bfloat16]
    assert network.batch_encoder.weight.grad is not None
    assert network.batch_encoder.weight.grad.dtype == torch.float32
