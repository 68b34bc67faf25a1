"""Write and load the model directory, the result of a training.

Files: ``model.json`` (description), ``genes.txt`` (output genes in order), ``best.safetensors`` and
other checkpoints, ``golden.npz`` (input and output cells, replayed on load), ``metrics.csv``
(training curves), ``config.yaml``. A kind of model is a module ``statetx.models.kinds.<kind>`` with
a function ``restore(meta, arrays) -> Predictor``, found by name. A list of kinds in this module
would put every kind into the code fingerprint of all others, and a new baseline would retrain every
model.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file

from statetx.core.digests import file_digest, sealed, unsealed
from statetx.core.errors import ModelError, did_you_mean
from statetx.core.records import verify
from statetx.core.text_files import write_json
from statetx.core.writes import whole
from statetx.models import kinds
from statetx.models.golden import replay
from statetx.models.predictor import Predicted, Predictor
from statetx.models.vocabulary import Vocabulary
from statetx.models.weights_file import write_weights

__all__ = ["LoadedModel", "Predicted", "Predictor", "load", "save"]

FORMAT = 1
OWN = (
    *("genes.txt", "golden.npz", "metrics.csv", "curves.svg", "config.yaml"),
    *("*.json", "*.safetensors"),
)
"""File names of a model directory: a directory with other files is not replaced."""
GOLDEN_CELLS = 16


_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "architecture": dict,
    "hyper_parameters": dict,
    "n_genes": int,
    "n_inputs": int,
    "control": str,
    "control_aliases": list,
    "perturbations": list,
    "lines": list,
    "embed_key": (str, type(None)),
    "cell_set_len": (int, type(None)),
    "checkpoints": dict,
    "files": dict,
}


@dataclass(frozen=True)
class LoadedModel:
    """A checked model, ready to predict.

    Attributes
    ----------
    path, checkpoint
        The model directory, and the name of the checkpoint.
    meta
        Content of ``model.json``.
    genes
        Names of the predicted columns, in order.
    predictor
        The model of its kind.
    """

    path: Path
    checkpoint: str
    meta: dict[str, Any]
    genes: list[str]
    predictor: Predictor

    @property
    def kind(self) -> str:
        """Kind of model, such as ``pertsets``."""
        return str(self.meta["kind"])

    @property
    def control(self) -> str:
        """Canonical control label."""
        return str(self.meta["control"])

    @property
    def control_aliases(self) -> list[str]:
        """Other spellings of the control label."""
        return list(self.meta["control_aliases"])

    @property
    def perturbations(self) -> list[str]:
        """Training vocabulary (or all labels with features), the control first.

        Baselines also predict other labels, as fallbacks.
        """
        return list(self.meta["perturbations"])

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The perturbations, which can be found in any spelling."""
        return Vocabulary.from_meta(self.meta)

    @property
    def lines(self) -> list[str]:
        """Cell lines with training conditions."""
        return list(self.meta["lines"])

    @property
    def embed_key(self) -> str | None:
        """Matrix of the basal cells; None: X as log1p."""
        return self.meta["embed_key"]

    @property
    def cell_set_len(self) -> int | None:
        """Cells per set in training; None: the model treats each cell separately."""
        return self.meta["cell_set_len"]

    @property
    def takes_embedding(self) -> bool:
        """Whether basal cells are rows of an embedding (`embed_key`), not expression of `genes`."""
        return self.meta.get("basal") == "embedding"

    @property
    def needs_batches(self) -> bool:
        """Whether the batch of every basal cell must be given."""
        return bool(getattr(self.predictor, "needs_batches", False))

    @property
    def knows_features(self) -> bool:
        """Whether the model knows perturbations by features, so that it can predict unseen ones."""
        return bool(getattr(self.predictor, "knows_features", False))

    def predict(
        self,
        control: np.ndarray,
        line: str,
        perturbation: str,
        batches: np.ndarray | None = None,
    ) -> Predicted:
        """Predict one set of cells.

        Parameters
        ----------
        control
            Basal cells, float32 [S, D], any S >= 1.
        line
            Cell line of the basal cells.
        perturbation
            Label, in any spelling of a trained label. Aliases of the control count as the control.
        batches
            Name of the batch of every cell [S], for a model with a batch encoder.

        Raises
        ------
        ModelError
            The shape is wrong, a value is not finite, or the model cannot predict the perturbation.
        """
        cells = np.asarray(control, dtype=np.float32)
        if cells.ndim != 2 or len(cells) == 0 or cells.shape[1] != self.meta["n_inputs"]:
            raise ModelError(
                f"the basal cells have shape {cells.shape}, but the model takes "
                f"[cells, {self.meta['n_inputs']}]",
                where=self.path,
                fix="give the columns that the model was trained on, in the order of genes.txt",
            )
        if not np.isfinite(cells).all():
            raise ModelError(
                f"basal cells of {line!r} contain NaN or infinite values", where=self.path
            )
        label = self.vocabulary.find(perturbation)
        if self.needs_batches:
            return self.predictor.predict(cells, line, label, batches)  # type: ignore[call-arg]
        return self.predictor.predict(cells, line, label)


def save(
    out: Path,
    *,
    meta: Mapping[str, Any],
    genes: list[str],
    checkpoints: Mapping[str, Mapping[str, np.ndarray]],
    basal: np.ndarray,
    line: str,
    perturbation: str,
    control_mean: np.ndarray | None = None,
    metrics: str | None = None,
    curves: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a complete model directory or nothing, and load it once to check it.

    Parameters
    ----------
    out
        The directory; an earlier model directory is replaced.
    meta
        Content of ``model.json``; number of genes, checkpoint names and digests are added.
    genes
        Names of the predicted columns.
    checkpoints
        ``{name: {tensor name: array}}``; must contain ``best``.
    basal, line, perturbation
        The golden input: basal cells [n, D], their line, and a label that the model predicts.
    control_mean
        Mean of training controls, float32 [G], for a model of expression.
    metrics, curves
        Text of ``metrics.csv``, and of ``curves.svg``, a plot of it.
    config
        Content of ``config.yaml``.

    Raises
    ------
    ModelError
        The model does not predict finite cells, or the written directory does not load.
    """
    given = meta.get("checkpoints", {})
    described = {
        **meta,
        "format": FORMAT,
        "n_genes": len(genes),
        "checkpoints": {name: given.get(name, {}) for name in checkpoints},
    }
    cells = np.ascontiguousarray(basal[:GOLDEN_CELLS], dtype=np.float32)
    golden: dict[str, Any] = {"control": cells, "line": line, "perturbation": perturbation}
    if control_mean is not None:
        golden["control_mean"] = control_mean
    batches = [str(name) for name in meta.get("batches") or []]
    with whole(out, own=OWN) as part:
        part.mkdir()
        (part / "genes.txt").write_text("".join(f"{gene}\n" for gene in genes), encoding="utf-8")
        for name, arrays in checkpoints.items():
            kept = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
            write_weights(kept, part / f"{name}.safetensors")
            predictor = _kind(meta["kind"], out).restore(described, kept)
            asked = [cells, line, perturbation]
            if getattr(predictor, "needs_batches", False):
                golden["batches"] = np.array([batches[i % len(batches)] for i in range(len(cells))])
                asked.append(golden["batches"])
            golden[f"cells_{name}"] = predictor.predict(*asked).cells
            if not np.isfinite(golden[f"cells_{name}"]).all():
                raise ModelError(f"checkpoint {name!r} predicts NaN or infinite values", where=out)
        np.savez(part / "golden.npz", **golden)
        if metrics is not None:
            (part / "metrics.csv").write_text(metrics, encoding="utf-8")
        if curves is not None:
            (part / "curves.svg").write_text(curves, encoding="utf-8")
        (part / "config.yaml").write_text(
            yaml.safe_dump(dict(config or {}), sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )
        functional = ["genes.txt", "golden.npz", *(f"{name}.safetensors" for name in checkpoints)]
        described["files"] = {name: file_digest(part / name) for name in functional}
        write_json(part / "model.json", sealed(described))
        for name in checkpoints:
            load(part, name)


def load(path: str | Path, checkpoint: str = "best", device: str = "cpu") -> LoadedModel:
    """Load a model directory, check its files and replay its golden cells.

    Parameters
    ----------
    path
        The model directory.
    checkpoint
        ``best``, ``last`` or ``step=N``.
    device
        ``cpu``, ``cuda`` or ``auto``. The replay always runs on the CPU.

    Raises
    ------
    ModelError
        A file is missing, broken, altered or does not fit the others. Or the checkpoint is unknown,
        or the replay differs by more than `statetx.models.golden.TOLERANCE`.
    """
    directory = Path(path)
    meta = _read_meta(directory)
    if checkpoint not in meta["checkpoints"]:
        raise ModelError(
            f"the model has no checkpoint {checkpoint!r}",
            where=directory,
            fix=f"{did_you_mean(checkpoint, meta['checkpoints'])} "
            "(models without training steps have only 'best')",
        )
    weights = f"{checkpoint}.safetensors"
    for name in ("genes.txt", "golden.npz", weights):
        _check_file(directory, name, meta)
    genes = (directory / "genes.txt").read_text(encoding="utf-8").splitlines()
    if len(genes) != meta["n_genes"] or len(set(genes)) != len(genes):
        raise ModelError(
            f"genes.txt lists {len(set(genes))} different genes, but model.json has "
            f"{meta['n_genes']}",
            where=directory / "genes.txt",
            fix="train or copy the model again: the directory was edited or mixed from two models",
        )
    try:
        arrays = load_file(directory / weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot read the weights: {error}", where=directory / weights, fix="train again"
        ) from error
    try:
        predictor = _kind(meta["kind"], directory).restore(meta, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"model.json does not describe a {meta['kind']} model: {error!r}",
            where=directory / "model.json",
            fix="train again: model.json was edited, or another version wrote it",
        ) from error
    model = LoadedModel(directory, checkpoint, meta, genes, predictor)
    replay(directory, checkpoint, meta["n_genes"], model.predict)
    if device != "cpu":
        model = LoadedModel(directory, checkpoint, meta, genes, predictor.to(device))
    return model


def _kind(kind: str, where: Path) -> Any:
    name = f"{kinds.__name__}.{kind}"
    if kind.isidentifier() and importlib.util.find_spec(name) is not None:
        module = importlib.import_module(name)
        if hasattr(module, "restore"):
            return module
    modules = [module.name for module in pkgutil.iter_modules(kinds.__path__)]
    raise ModelError(
        f"unknown kind of model {kind!r}", where=where, fix=did_you_mean(kind, modules)
    )


def _read_meta(directory: Path) -> dict[str, Any]:
    path = directory / "model.json"
    try:
        meta = json.loads(verify(path).read_text(encoding="utf-8"))
        if isinstance(meta, dict) and "digest" in meta:  # models of version 0.1 have no digest
            meta = unsealed(meta)
    except OSError as error:
        raise ModelError(
            f"this is not a model directory: {error.strerror}",
            where=path,
            fix="give the directory `model` of a finished training run",
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"model.json is broken: {error}", where=path, fix="train or copy the model again"
        ) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        version = meta.get("format") if isinstance(meta, dict) else meta
        raise ModelError(
            f"the model has format {version!r}, but this version reads format {FORMAT}",
            where=path,
            fix="train again",
        )
    for key, types in _REQUIRED.items():
        if key not in meta or not isinstance(meta[key], types) or isinstance(meta[key], bool):
            raise ModelError(
                f"model.json has no valid {key!r}", where=path, fix="train or copy the model again"
            )
    return meta


def _check_file(directory: Path, name: str, meta: Mapping[str, Any]) -> None:
    path = directory / name
    if not path.is_file():
        raise ModelError(
            f"the model directory does not contain {name}",
            where=path,
            fix="train or copy the model again",
        )
    if file_digest(path) != meta["files"].get(name):
        raise ModelError(
            f"{name} is not the file that training wrote",
            where=path,
            fix="train or copy the model again: the file is damaged, edited, or of another model",
        )
