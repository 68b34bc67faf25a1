"""A released run becomes a model directory that says the same; files that could run code are not run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner

from statetx.cli.main import app
from statetx.core.errors import DataError, ModelError
from statetx.inference import choose_attention as attention
from statetx.inference.import_run import import_run
from statetx.inference.infer import infer
from statetx.models import model_dir
from statetx.models.imported import arc
from statetx.models.imported.checkpoint_file import read_pickle
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import ATTENTION, Shape
from statetx.models.network.decoder import DecoderShape
from statetx.models.network.set_transformer import PertSets

D, G = 6, 9
CONTROL = "[('DMSO_TF', 0.0, 'uM')]"
LABELS = ["[('Aspirin', 0.5, 'uM')]", CONTROL, "[('Zinc', 5.0, 'uM')]", "[('Abc', 0.05, 'uM')]"]
"""In the order of their ids: the control is not the first."""
COLUMNS = {"pert_col": "drugname_drugconc", "cell_type_key": "cell_line", "batch_col": "plate"}
GENES = [f"gene{i}" for i in range(G)]
SHAPE = Shape(16, 1, 2, 8, 24)


class Evil:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("open('it ran', 'w')",))


class Run:
    """A run directory of the original, with a checkpoint inside."""

    def __init__(self, home: Path, embedding: bool = True, **changes: Any) -> None:
        self.home, self.embedding = home, embedding
        torch.manual_seed(0)
        width, decoder = (D, DecoderShape("plain", D, G, (8,))) if embedding else (G, None)
        values = {"pert_dim": 4, "backbone": SHAPE, "dropout": 0.1, **changes}
        values = {"decoder": decoder, "relu": not embedding, **values}
        self.network = PertSets(Architecture(input_dim=width, output_dim=width, **values)).eval()
        shape = values["backbone"]
        kwargs: dict[str, Any] = {"num_attention_heads": shape.num_attention_heads}
        if shape.attention in ("bidirectional", "causal_rope"):
            kwargs["bidirectional_attention"] = shape.attention == "bidirectional"
        said = {"output_space": "gene", "control_pert": "DMSO_TF", "cell_set_len": 8}
        said["embed_key"] = "emb" if embedding else "X_hvg"
        self.settings: dict[str, Any] = {**said, "transformer_backbone_kwargs": kwargs}
        if embedding:
            self.settings["decoder_cfg"] = {"latent_dim": D, "gene_dim": G, "hidden_dims": [8]}
        (home / "checkpoints").mkdir(parents=True)
        self.checkpoint = self.write("best")
        content = {"data": {"kwargs": {**COLUMNS, "control_pert": "DMSO_TF"}}, "model": {"a": 1}}
        (home / "config.yaml").write_text(yaml.safe_dump(content))
        order = [2, 0, 3, 1]  # of the dictionary: not that of the ids
        self.maps("pert_onehot_map.pt", {LABELS[i]: torch.eye(4)[i] for i in order})
        self.dims(gene_names=GENES)

    def write(self, name: str, **settings: Any) -> Path:
        tensors = dict(self.network.state_dict())
        unused = {"transformer_backbone.embed_tokens.weight": torch.zeros(3, 16)}
        moved = {i: {"step": torch.tensor(1.0)} for i in range(len(tensors))}
        content = {
            "state_dict": tensors | unused,
            "hyper_parameters": {**self.settings, **settings},
            "optimizer_states": [{"state": moved, "param_groups": []}],
        }
        torch.save(content, path := self.home / "checkpoints" / f"{name}.ckpt")
        return path

    def maps(self, name: str, table: Any) -> None:
        torch.save(table, self.home / name)

    def dims(self, **content: Any) -> None:
        (self.home / "var_dims.pkl").write_bytes(pickle.dumps({"pert_dim": 4, **content}))

    def cells(self, n: int = 7) -> np.ndarray:
        generator = np.random.default_rng(1)
        cells = generator.normal(size=(n, D)) if self.embedding else generator.random((n, G))
        return cells.astype(np.float32)

    def expected(self, cells: np.ndarray, given: Tensor, batch: Tensor | None = None) -> Any:
        with torch.no_grad():
            return self.network(torch.from_numpy(cells)[None], given[None], batch)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def _check(run: Run, out: Path, vectors: Tensor | None = None) -> model_dir.LoadedModel:
    """The imported model says for every label what the network says for its vector."""
    loaded, cells = model_dir.load(out), run.cells()
    vectors = torch.eye(4) if vectors is None else vectors
    answers = []
    for label, vector in zip(LABELS, vectors, strict=False):
        expected = run.expected(cells, vector)
        found = loaded.predict(cells, "any line", label)
        pairs = [(found.cells, expected.cells)]
        if expected.genes is not None:
            pairs = [(found.cells, expected.genes), (found.embedding, expected.cells)]
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs[0], rtol=1e-4, atol=1e-6)
        answers.append(found.cells)
    assert np.abs(answers[0] - answers[1]).max() > 1e-4
    return loaded


@pytest.mark.parametrize("embedding", [True, False])
def test_labels_keep_their_predictions_and_the_control_comes_first(
    tmp_path: Path, embedding: bool
) -> None:
    run = Run(tmp_path / "run", embedding)
    done = CliRunner().invoke(app, ["import", str(run.home), "--out", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert "4 perturbations, 9 genes, attention bidirectional" in done.output
    loaded = _check(run, tmp_path / "model")
    assert loaded.perturbations == [CONTROL, LABELS[0], LABELS[2], LABELS[3]]
    assert loaded.control == CONTROL
    assert loaded.genes == GENES
    assert loaded.cell_set_len == 8
    assert loaded.takes_embedding is embedding
    assert loaded.embed_key == ("emb" if embedding else "X_hvg")
    assert loaded.meta["columns"] == COLUMNS
    with pytest.raises(ModelError, match="not trained on perturbation"):
        loaded.predict(run.cells(), "", "[('Zink', 5.0, 'uM')]")


@pytest.mark.parametrize("given", ["run", "checkpoint", "final", "last"])
def test_a_run_or_its_checkpoint_may_be_named(run: Run, tmp_path: Path, given: str) -> None:
    source = run.checkpoint if given == "checkpoint" else run.home
    if given in ("final", "last"):
        run.checkpoint.rename(run.checkpoint.with_name(f"{given}.ckpt"))
    import_run(source, tmp_path / "model")
    assert _check(run, tmp_path / "model").control == CONTROL


def test_the_fixture_of_the_original_is_imported(shared: Path, tmp_path: Path) -> None:
    path = shared / "fixtures" / "model" / "lightning_0111_emb_basallinear.ckpt"
    if not path.is_file():
        pytest.skip(f"no fixture {path.name}")
    assert import_run(path, tmp_path / "model")["attention"] == "bidirectional"
    expected = torch.load(path.with_name(f"{path.stem}_expected.pt"), weights_only=True)
    loaded, batch = model_dir.load(tmp_path / "model"), expected["batch"]
    assert loaded.genes == [f"g{i}" for i in range(50)]
    control, one_hot = (batch[key].reshape(3, 8, -1) for key in ("ctrl_cell_emb", "pert_emb"))
    for i in range(3):
        rows, number = slice(8 * i, 8 * i + 8), int(one_hot[i, 0].argmax())
        # There is no map beside it: labels are numbers.
        predicted = loaded.predict(control[i].numpy(), "", f"#{number}")
        np.testing.assert_allclose(predicted.cells, expected["counts"][rows], atol=1e-5)
        np.testing.assert_allclose(predicted.embedding, expected["pred"][rows], atol=1e-5)


RANDOM = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("vectors", [RANDOM, RANDOM[:3], torch.eye(6)[:4]])
def test_maps_of_features_or_of_fewer_labels_than_ids(tmp_path: Path, vectors: Tensor) -> None:
    run = Run(tmp_path / "run", pert_dim=vectors.shape[1])
    run.maps("pert_onehot_map.pt", dict(zip(LABELS, vectors, strict=False)))
    assert import_run(run.home, tmp_path / "model")["labels"] == len(vectors)
    loaded = _check(run, tmp_path / "model", vectors)
    assert loaded.perturbations[0] == CONTROL
    assert len(loaded.perturbations) == len(vectors)


def test_labels_may_be_numpy_strings(run: Run, tmp_path: Path) -> None:
    """As State 0.11 writes them; they become plain ones."""
    run.maps("pert_onehot_map.pt", {np.str_(LABELS[i]): torch.eye(4)[i] for i in range(4)})
    import_run(run.home, tmp_path / "model")
    labels = _check(run, tmp_path / "model").perturbations
    assert set(labels) == set(LABELS)
    assert {type(label) for label in labels} == {str}


def test_a_map_of_another_run_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", batch_encoder=True, batch_dim=3)
    run.maps("pert_onehot_map.pt", {name: torch.eye(5)[i] for i, name in enumerate(LABELS)})
    with pytest.raises(ModelError, match="5 columns, the model takes 4") as caught:
        import_run(run.home, tmp_path / "model")
    assert "pert_onehot_map.pt" in str(caught.value.where)
    run.maps("pert_onehot_map.pt", {f"drug{i}": torch.eye(4)[i] for i in range(4)})
    with pytest.raises(ModelError, match="is the control DMSO_TF"):
        import_run(run.home, tmp_path / "model")
    run.maps("pert_onehot_map.pt", {name: torch.eye(4)[i] for i, name in enumerate(LABELS)})
    run.maps("batch_onehot_map.pt", {f"plate{i}": torch.eye(5)[i] for i in range(5)})
    with pytest.raises(ModelError, match="batch"):
        import_run(run.home, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_genes_come_from_the_option_the_run_or_the_checkpoint(run: Run, tmp_path: Path) -> None:
    names = tmp_path / "genes.txt"
    names.write_text("\n".join(f"mine{i}" for i in range(G)) + "\n\n")
    import_run(run.home, tmp_path / "a", genes=names)
    assert model_dir.load(tmp_path / "a").genes == [f"mine{i}" for i in range(G)]
    run.dims(gene_names=np.array(GENES, dtype=object))
    import_run(run.home, tmp_path / "b")
    assert model_dir.load(tmp_path / "b").genes == GENES
    # Released runs list all genes there, not the ones that are predicted.
    run.dims(gene_names=[f"all{i}" for i in range(62)])
    run.write("best", gene_names=[f"own{i}" for i in range(G)])
    import_run(run.home, tmp_path / "c")
    assert model_dir.load(tmp_path / "c").genes == [f"own{i}" for i in range(G)]


@pytest.mark.parametrize("names", [GENES[:-1], [*GENES[:-1], GENES[0]], [*GENES, "more"], None])
def test_genes_that_do_not_fit_are_refused(run: Run, tmp_path: Path, names: Any) -> None:
    given = None if names is None else tmp_path / "genes.txt"
    run.dims()
    if given is not None:
        given.write_text("\n".join(names))
        run.dims(gene_names=GENES)  # what is given is not passed over for what fits
    with pytest.raises(ModelError, match="predicts 9 genes, whose names are not known") as caught:
        import_run(run.home, tmp_path / "model", genes=given)
    assert "--genes" in str(caught.value.fix)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "name", ["var_dims.pkl", "pert_onehot_map.pt", "batch_onehot_map.pt", "batch_onehot_map.pkl"]
)
def test_a_file_that_could_run_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "run", batch_encoder=True, batch_dim=2)
    run.maps("batch_onehot_map.pt", {"p1": torch.eye(2)[0], "p2": torch.eye(2)[1]})
    import_run(run.home, tmp_path / "fine")
    (run.home / "batch_onehot_map.pt").unlink()
    content = {"gene_names": GENES, "x": Evil()}
    if name.endswith(".pkl"):
        (run.home / name).write_bytes(pickle.dumps(content))
    else:
        run.maps(name, content)
    with pytest.raises(ModelError) as caught:
        import_run(run.home, tmp_path / "model")
    assert not (tmp_path / "it ran").exists()
    assert name in str(caught.value.where)
    assert not (tmp_path / "model").exists()


def test_plain_pickles_are_read(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None, True, "x", ("y",)], "b": np.arange(3), "c": np.float32(2)}
    path = tmp_path / "x.pkl"
    for protocol in (3, pickle.DEFAULT_PROTOCOL):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_pickle(path)
        assert found["a"] == content["a"]
        assert found["b"].tolist() == [0, 1, 2]
    assert read_pickle(tmp_path / "none.pkl") == {}
    for bytes_ in (pickle.dumps({"a": pd.Series([1])}), b"half"):
        path.write_bytes(bytes_)
        with pytest.raises(ModelError, match="cannot read this file safely"):
            read_pickle(path)


def test_batches_keep_their_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path / "run", batch_encoder=True, batch_dim=3)
    import_run(run.home, tmp_path / "nameless")
    assert model_dir.load(tmp_path / "nameless").meta["batches"] == ["#0", "#1", "#2"]
    assert "no map of batches" in caplog.text
    run.maps("batch_onehot_map.torch", {f"plate{i}": torch.eye(3)[i] for i in (1, 0, 2)})
    import_run(run.home, tmp_path / "model")
    loaded, cells = model_dir.load(tmp_path / "model"), run.cells(3)
    assert loaded.needs_batches
    names = np.array(["plate2", "plate0", "plate1"])
    found = loaded.predict(cells, "", LABELS[2], names)
    expected = run.expected(cells, torch.eye(4)[2], torch.tensor([[2, 0, 1]]))
    np.testing.assert_allclose(found.cells, expected.genes[0], rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="not trained on batch 'plate9'"):
        loaded.predict(cells, "", LABELS[2], np.array(["plate9"] * 3))


def test_expression_never_comes_from_a_decoder_that_was_not_trained(tmp_path: Path) -> None:
    """It would give random numbers; runs in gene space carry such a decoder all the same."""
    run = Run(tmp_path / "run", embedding=False)
    with_decoder = PertSets(Architecture(G, G, 4, SHAPE, decoder=DecoderShape("plain", G, G, (8,))))
    tensors = with_decoder.state_dict() | run.network.state_dict()
    for states in ([{"state": {99: {}}}], []):  # with and without an optimiser in the file
        content = {"state_dict": tensors, "hyper_parameters": run.settings}
        torch.save(content | {"optimizer_states": states}, run.checkpoint)
        out = tmp_path / f"model{len(states)}"
        import_run(run.home, out)
        assert not _check(run, out).takes_embedding


def test_an_embedding_without_decoder_cannot_be_scored(tmp_path: Path) -> None:
    Run(tmp_path / "run", embedding=False).write("best", embed_key="emb")
    with pytest.raises(ModelError, match="predicts the embedding 'emb' and has no trained gene"):
        import_run(tmp_path / "run", tmp_path / "model")


def _h5ad(
    path: Path, cells: np.ndarray, key: str = "emb", control: str = CONTROL
) -> anndata.AnnData:
    """Cells of two perturbations, 12 and 5, and controls."""
    labels = [LABELS[0]] * 12 + [LABELS[2]] * 5 + [control] * (len(cells) - 17)
    obs = pd.DataFrame({"drugname_drugconc": labels, "cell_line": "A", "plate": "p1"})
    obs.index = obs.index.astype(str)
    made = anndata.AnnData(np.zeros((len(cells), 1), np.float32), obs, obsm={key: cells})
    made.write_h5ad(path)
    return made


def test_an_imported_model_infers_embedding_and_genes(run: Run, tmp_path: Path) -> None:
    import_run(run.home, tmp_path / "model")
    mine = _h5ad(tmp_path / "mine.h5ad", run.cells(47))
    assert infer(tmp_path / "model", tmp_path / "mine.h5ad", tmp_path / "out.h5ad") == 17
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert found.var_names.tolist() == GENES
    for (label, _), block in found.obs.groupby(["perturbation", "set_id"], observed=True):
        basal = mine[block["control_barcode"].to_numpy()]
        assert set(basal.obs["drugname_drugconc"]) == {CONTROL}
        expected = run.expected(basal.obsm["emb"], torch.eye(4)[LABELS.index(label)])
        part = found[block.index]
        for ours, theirs in ((part.X, expected.genes), (part.obsm["emb"], expected.cells)):
            np.testing.assert_allclose(ours, theirs[0], rtol=1e-4, atol=1e-6)
    _h5ad(tmp_path / "wide.h5ad", np.zeros((47, D + 1), np.float32))
    with pytest.raises(DataError, match="has 7 columns, the model takes 6"):
        infer(tmp_path / "model", tmp_path / "wide.h5ad", tmp_path / "wide.out.h5ad")


@pytest.mark.parametrize("spelling", ["DMSO_TF", "DMSO_TF_00", "DMSO_TF_0.0"])
def test_other_spellings_of_the_control_are_found(run: Run, tmp_path: Path, spelling: str) -> None:
    import_run(run.home, tmp_path / "model")
    _h5ad(tmp_path / "mine.h5ad", run.cells(47), control=spelling)
    assert infer(tmp_path / "model", tmp_path / "mine.h5ad", tmp_path / "out.h5ad") == 17


def _trained(home: Path, mode: str) -> tuple[Run, Path]:
    """A run whose network gives back control cells, in its own attention mode only."""
    layers = {"n_encoder_layers": 1, "n_decoder_layers": 1, "predict_residual": False}
    run = Run(home / mode, False, backbone=Shape(16, 1, 2, 8, 24, mode), **layers)
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(G, generator=generator)

    def cells(*shape: int) -> Tensor:
        return torch.relu(centre + 0.5 * torch.randn(*shape, G, generator=generator))

    parts = dict(run.network.named_parameters())
    for name in parts:
        if "self_attn" in name:  # far from uniform, and not to be unlearnt
            parts[name].data *= 60
    optimizer = torch.optim.Adam([p for n, p in parts.items() if "self_attn" not in n], lr=1e-2)
    for _ in range(300):
        control = cells(4, 64)
        found = run.network(control, torch.full((4, 4), 0.25)).cells
        optimizer.zero_grad()
        nn.functional.mse_loss(found, control).backward()
        optimizer.step()
    run.settings["transformer_backbone_kwargs"].pop("bidirectional_attention", None)
    run.write("best", predict_residual=False)
    _h5ad(home / "controls.h5ad", cells(400).numpy(), "X_hvg")
    return run, home / "controls.h5ad"


@pytest.mark.parametrize("mode", ["bidirectional", "causal_rope"])
def test_control_cells_tell_the_attention_mode(tmp_path: Path, mode: str) -> None:
    run, adata = _trained(tmp_path, mode)
    with pytest.raises(ModelError, match="does not state its attention mode"):
        import_run(run.home, tmp_path / "model")
    with pytest.raises(ModelError, match="there are none") as caught:
        import_run(run.home, tmp_path / "model", attention="auto")
    assert "--adata" in str(caught.value.fix)
    found = import_run(run.home, tmp_path / "model", attention="auto", adata=adata)
    assert found["attention"] == mode
    assert model_dir.load(tmp_path / "model").meta["attention"] == mode


def _chosen(run: Run, adata: Path) -> str:
    return attention.choose_attention(run.checkpoint, adata, "emb", "drugname_drugconc", "DMSO_TF")


@pytest.mark.parametrize("best", ["bidirectional", "causal", "causal_rope", "bidirectional_rope"])
def test_the_mode_of_least_loss_wins(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: str, caplog: Any
) -> None:
    _h5ad(tmp_path / "mine.h5ad", run.cells(47))
    tried: list[str] = []
    load = arc.load
    noted = lambda *a, **k: (tried.append(k["attention"]), load(*a, **k))[1]  # noqa: E731
    monkeypatch.setattr(attention.arc, "load", noted)
    monkeypatch.setattr(attention, "energy", lambda *_: torch.tensor([tried[-1] != best]) + 1.0)
    assert _chosen(run, tmp_path / "mine.h5ad") == best
    assert sorted(tried) == sorted(set(ATTENTION) - {"alone"})
    assert best in caplog.text


def test_heads_of_odd_width_are_compared_without_positions(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", backbone=Shape(16, 1, 2, 7, 24))
    _h5ad(tmp_path / "mine.h5ad", run.cells(47))
    assert _chosen(run, tmp_path / "mine.h5ad") in ("bidirectional", "causal")


def test_the_target_sum_of_an_imported_model(tmp_path: Path) -> None:
    """No run states it: 10,000, or what the importer knows; cells are brought to it."""
    run = Run(tmp_path / "run", False)
    rng = np.random.default_rng(0)
    counts = rng.poisson(5.0, (47, G)) + np.arange(G) * 3
    counts[:, 0] = 1  # few counts hardly ever have a common divisor, but nine may
    total = counts.sum(axis=1, keepdims=True) + rng.integers(100, 900, (47, 1))  # of other genes
    found = {}
    for name, option, target in (("usual", (), 1e4), ("own", ("--target-sum", "2000"), 2e3)):
        model = tmp_path / name
        given = ["import", str(run.home), "--out", str(model), *option]
        result = CliRunner().invoke(app, given)
        assert result.exit_code == 0
        assert f"target sum {target:,.0f}" in result.output
        assert model_dir.load(model).meta["scale"]["target_sum"] == target
        for made in (2e3, 1e4):
            path = tmp_path / f"{name}{made:.0f}.h5ad"
            values = np.log1p(made * counts / total).astype(np.float32)
            mine = _h5ad(path, values, "X_hvg")
            mine.uns["hvg_names"] = np.array(GENES)
            mine.write_h5ad(path)
            infer(model, path, path.with_suffix(".out.h5ad"))
            found[name, made] = anndata.read_h5ad(path.with_suffix(".out.h5ad")).X
    for name in ("usual", "own"):
        np.testing.assert_allclose(found[name, 2e3], found[name, 1e4], rtol=1e-4, atol=1e-5)
    assert np.abs(found["usual", 1e4] - found["own", 1e4]).max() > 1e-3
