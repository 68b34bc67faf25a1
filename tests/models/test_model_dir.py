"""The model directory: what is written opens again, and everything that does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from statetx.core.digests import file_digest, sealed
from statetx.core.errors import ModelError
from statetx.models import model_dir
from statetx.models.kinds.pertsets import restore
from statetx.models.network.backbone import Shape
from statetx.models.network.set_transformer import Architecture, PertSets

VOCABULARY = ["DMSO_TF_00", "drugA_0.5", "drugA_5.0"]
GENES = [f"G{i}" for i in range(6)]


def _save(out: Path, **changes: object) -> PertSets:
    torch.manual_seed(0)
    model = PertSets(Architecture(6, 6, 3, Shape(8, 1, 2, 4, 16), 2, 2, dropout=0.1))
    worse = {key: value * 0.5 for key, value in model.arrays().items()}
    meta = {
        "kind": "pertsets",
        "architecture": model.architecture.to_json(),
        "hyper_parameters": {},
        "n_inputs": 6,
        "control": VOCABULARY[0],
        "control_aliases": ["DMSO_TF"],
        "perturbations": VOCABULARY,
        "lines": ["A"],
        "embed_key": "X_hvg",
        "cell_set_len": 4,
        "checkpoints": {"best": {"step": 3}},
    }
    cells = np.random.default_rng(0).random((16, 6)).astype(np.float32)
    arguments: dict = {
        "meta": meta,
        "genes": GENES,
        "checkpoints": {"best": model.arrays(), "step=2": worse},
        "basal": cells,
        "line": "A",
        "perturbation": VOCABULARY[1],
        "metrics": "step,train_loss\n1,2.0\n",
        "config": {"seed": 0},
    }
    model_dir.save(out, **{**arguments, **changes})
    return model.eval()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    _save(tmp_path / "model")
    return tmp_path / "model"


def _forge(directory: Path, name: str) -> None:
    """Make the digest of an altered file right again, to reach the check behind it."""
    meta = json.loads((directory / "model.json").read_text())
    meta["files"][name] = file_digest(directory / name)
    _seal(directory, meta)


def _edit(directory: Path, **changes: object) -> None:
    meta = json.loads((directory / "model.json").read_text())
    _seal(directory, {**meta, **changes})


def _seal(directory: Path, meta: dict) -> None:
    """Write model.json with the digest of its new content, to reach the check behind it."""
    body = {key: value for key, value in meta.items() if key != "digest"}
    (directory / "model.json").write_text(json.dumps(sealed(body)))


def test_round_trip(tmp_path: Path) -> None:
    model = _save(tmp_path / "model")
    loaded = model_dir.load(tmp_path / "model")
    assert (loaded.kind, loaded.genes, loaded.perturbations) == ("pertsets", GENES, VOCABULARY)
    assert (loaded.control, loaded.control_aliases) == ("DMSO_TF_00", ["DMSO_TF"])
    assert (loaded.embed_key, loaded.cell_set_len, loaded.lines) == ("X_hvg", 4, ["A"])
    assert loaded.meta["checkpoints"]["best"] == {"step": 3}
    cells = np.random.default_rng(1).random((5, 6)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(cells)[None], torch.tensor([2])).cells[0].numpy()
    np.testing.assert_allclose(loaded.predict(cells, "B", "drugA_5.0").cells, expected, atol=1e-6)
    alias = loaded.predict(cells, "B", "DMSO_TF").cells
    np.testing.assert_array_equal(alias, loaded.predict(cells, "B", "DMSO_TF_00").cells)
    other = model_dir.load(tmp_path / "model", "step=2").predict(cells, "B", "drugA_5.0").cells
    assert np.abs(other - expected).max() > 1e-3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_unknown_checkpoint_and_perturbation(directory: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint 'bets'") as caught:
        model_dir.load(directory, "bets")
    assert "did you mean 'best'?" in str(caught.value)
    with pytest.raises(ModelError, match=r"not trained on perturbation 'drugA_0\.6'") as caught:
        model_dir.load(directory).predict(np.ones((2, 6), np.float32), "A", "drugA_0.6")
    assert "did you mean 'drugA_0.5'?" in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 5), (0, 6), (6,), (1, 2, 6)])
def test_wrong_basal_cells(directory: Path, shape: tuple[int, ...]) -> None:
    model = model_dir.load(directory)
    with pytest.raises(ModelError, match="basal cells have shape"):
        model.predict(np.zeros(shape, np.float32), "A", "drugA_0.5")
    with pytest.raises(ModelError, match="NaN or infinite"):
        model.predict(np.full((2, 6), np.nan, np.float32), "A", "drugA_0.5")


def _truncate(directory: Path) -> None:
    path = directory / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def _truncate_and_forge(directory: Path) -> None:
    _truncate(directory)
    _forge(directory, "best.safetensors")


def _reweigh(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        save_file(change(load_file(directory / "best.safetensors")), directory / "best.safetensors")
        _forge(directory, "best.safetensors")

    return act


def _drop(arrays: dict) -> dict:
    return {
        key: value for key, value in arrays.items() if key != "transformer_backbone.norm.weight"
    }


def _add(arrays: dict) -> dict:
    return {**arrays, "gene_decoder.decoder.0.weight": np.zeros((2, 2), np.float32)}


def _reshape(arrays: dict) -> dict:
    return {**arrays, "project_out.3.bias": arrays["project_out.3.bias"][:-1]}


def _other(arrays: dict) -> dict:
    name = "project_out.3.bias"
    return {**arrays, name: arrays[name] + 0.2}


def _rewrite_genes(lines: list[str]) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        (directory / "genes.txt").write_text("\n".join(lines) + "\n")
        _forge(directory, "genes.txt")

    return act


def _fewer_genes(directory: Path) -> None:
    _rewrite_genes(GENES[:5])(directory)
    _edit(directory, n_genes=5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "best.safetensors is not the file that training wrote"),
        (_truncate_and_forge, "cannot read the weights"),
        (_reweigh(_drop), r"1 tensor\(s\) are missing.*'transformer_backbone.norm.weight'"),
        (_reweigh(_add), r"1 tensor\(s\) are unknown.*'gene_decoder.decoder.0.weight'"),
        (_reweigh(_reshape), "tensor 'project_out.3.bias' has shape"),
        (_reweigh(_other), "does not reproduce its golden cells"),
        (_rewrite_genes(GENES[:5]), "genes.txt lists 5 different genes, but model.json has 6"),
        (_rewrite_genes([*GENES[:5], "G0"]), "genes.txt lists 5 different genes"),
        (_fewer_genes, r"predicts cells of shape \(16, 6\), but genes.txt has 5"),
        (lambda d: (d / "genes.txt").write_text("G0\n"), "genes.txt is not the file"),
        (lambda d: (d / "golden.npz").unlink(), "does not contain golden.npz"),
        (lambda d: (d / "best.safetensors").unlink(), "does not contain best.safetensors"),
        (lambda d: (d / "model.json").unlink(), "this is not a model directory"),
        (lambda d: (d / "model.json").write_text('{"kind": "pert'), "model.json is broken"),
        (lambda d: (d / "model.json").write_text("[]"), "the model has format"),
        (lambda d: _edit(d, format=2), "format 2, but this version reads format 1"),
        (lambda d: _edit(d, control=None), "no valid 'control'"),
        (lambda d: _edit(d, kind="pertset"), "unknown kind of model 'pertset'"),
        (lambda d: _edit(d, kind="deltas"), "unknown kind of model 'deltas'"),
        (lambda d: _edit(d, kind="../x"), "unknown kind of model"),
        (lambda d: _edit(d, perturbations=VOCABULARY[:2]), "vocabulary has 2 different labels"),
        (lambda d: _edit(d, perturbations=[*VOCABULARY[:2]] * 2), "vocabulary has 2 different"),
        (lambda d: _edit(d, architecture={"input_dim": 6}), "does not describe a pertsets model"),
    ],
)
def test_what_does_not_fit_is_refused(
    directory: Path, damage: Callable[[Path], object], message: str
) -> None:
    model_dir.load(directory)
    damage(directory)
    with pytest.raises(ModelError, match=message) as caught:
        model_dir.load(directory)
    assert caught.value.where or caught.value.fix


def test_another_attention_mode_is_refused(directory: Path) -> None:
    meta = json.loads((directory / "model.json").read_text())
    for mode, message in (
        ("windowed", "unknown attention mode 'windowed'"),
        ("causal_rope", "does not reproduce its golden cells"),
    ):
        meta["architecture"]["backbone"]["attention"] = mode
        _seal(directory, meta)
        with pytest.raises(ModelError, match=message):
            model_dir.load(directory)


def test_an_edited_description_is_refused(directory: Path) -> None:
    """Two labels that change places would predict one drug for the other."""
    path = directory / "model.json"
    meta = json.loads(path.read_text())
    meta["perturbations"] = [meta["perturbations"][i] for i in (0, 2, 1)]
    path.write_text(json.dumps(meta))
    with pytest.raises(ModelError, match="does not match its own digest"):
        model_dir.load(directory)


def test_a_description_without_digest_is_of_an_earlier_version(directory: Path) -> None:
    path = directory / "model.json"
    meta = json.loads(path.read_text())
    del meta["digest"]
    path.write_text(json.dumps(meta))
    assert model_dir.load(directory).kind == "pertsets"


def test_a_model_of_nan_is_not_written(tmp_path: Path) -> None:
    model = PertSets(Architecture(6, 6, 3, Shape(8, 1, 2, 4, 16), 2, 2))
    arrays = model.arrays()
    arrays["project_out.3.bias"][:] = np.nan
    with pytest.raises(ModelError, match="predicts NaN"):
        _save(tmp_path / "model", checkpoints={"best": arrays})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_earlier_model(directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(ModelError):
        _save(directory, genes=GENES[:5])
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_restoring_does_not_keep_the_callers_arrays(directory: Path) -> None:
    arrays = load_file(directory / "best.safetensors")
    meta = json.loads((directory / "model.json").read_text())
    predictor = restore(meta, arrays)
    cells = np.ones((2, 6), np.float32)
    before = predictor.predict(cells, "A", "drugA_0.5").cells
    arrays["project_out.3.bias"][:] = 9.0
    np.testing.assert_array_equal(predictor.predict(cells, "A", "drugA_0.5").cells, before)
