"""Convert a released State run, or its checkpoint, to a model directory (`statetx import`)."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statetx.core.digests import file_digest, versions
from statetx.core.documents import Wanted, read_text, read_yaml
from statetx.core.errors import ModelError
from statetx.inference.choose_attention import choose_attention
from statetx.models import model_dir
from statetx.models.imported import arc
from statetx.models.imported.checkpoint_file import (
    described,
    read_checkpoint,
    read_map,
    read_pickle,
)
from statetx.models.kinds.pertsets import FEATURES
from statetx.models.network.architecture import Architecture
from statetx.shared import labels as spelling
from statetx.shared.expression import TARGET_SUM
from statetx.shared.label_kinds import read_as

log = logging.getLogger("statetx.inference")

CHECKPOINTS = ("best", "final", "last")
"""Checkpoints of a run directory; the first that exists is used."""
MAPS = ("pert_onehot_map.pt", "pert_onehot_map.torch")
"""Possible file names of the map of perturbations of a run."""
AUTO = "auto"


def import_run(
    source: Path,
    out: Path,
    attention: str | None = None,
    genes: Path | None = None,
    adata: Path | None = None,
    target_sum: float = TARGET_SUM,
) -> dict[str, Any]:
    """Write a model directory from a State run.

    Parameters
    ----------
    source
        Run directory, or a Lightning checkpoint. Other files of the run are then searched in the
        directory of the checkpoint and in the one above.
    out
        Model directory to write.
    attention
        Attention mode, for checkpoints that do not state it. ``auto``: the mode with the smallest
        energy loss on control cells.
    genes
        File with the names of the predicted genes, one per line, in order.
    adata
        h5ad file with control cells, for ``auto``.
    target_sum
        Target sum to which the training data were normalised, which runs do not state.

    Returns
    -------
    dict
        Summary: checkpoint, attention, numbers of parameters, labels and genes, target sum.

    Raises
    ------
    ModelError
        Files cannot be read or are unsafe, the attention mode is undecided, genes are unknown, or
        there is no control label.
    """
    with described(source):
        return _import_run(source, out, attention, genes, adata, target_sum)


def _import_run(
    source: Path,
    out: Path,
    attention: str | None,
    genes: Path | None,
    adata: Path | None,
    target_sum: float,
) -> dict[str, Any]:
    path, run = _checkpoint(source)
    content = read_checkpoint(path)
    settings = dict(content.get("hyper_parameters") or {})
    data = _data_settings(run)
    mode = attention
    if attention == AUTO:
        if adata is None:
            raise ModelError(
                "control cells must decide the attention mode, and there are none",
                where="--attention auto",
                fix="give an h5ad file with controls: --adata CELLS.h5ad",
            )
        key = settings.get("embed_key")
        control = str(settings.get("control_pert") or data.get("control_pert"))
        mode = choose_attention(path, adata, key, data.get("pert_col"), control)
    model = arc.load(path, attention=mode)
    a, arrays = model.architecture, model.arrays()
    in_genes = settings.get("embed_key") in ("X_hvg", None)
    if a.decoder is not None and in_genes and settings.get("output_space") != "all":
        # All State models contain a gene decoder. It is never trained if the model predicts genes.
        log.warning("%s: the gene decoder is left out: a model in gene space does not use it", path)
        a = replace(a, decoder=None)
        arrays = {k: v for k, v in arrays.items() if not k.startswith("gene_decoder.")}
    vocabulary, features = _vocabulary(run, a, path)
    control, vocabulary, order = _control_first(vocabulary, settings, data, run)
    names = _genes(a, settings, run, genes, path)
    if features is not None:
        arrays[FEATURES] = features[order].float().numpy()
    else:  # ids in the new order of the labels
        first = arrays["pert_encoder.0.weight"]
        arrays["pert_encoder.0.weight"] = np.ascontiguousarray(first[:, order])
    embedding = a.decoder is not None
    meta = {
        "kind": "pertsets",
        "architecture": a.to_json(),
        "attention": asdict(a.backbone).get("attention", "causal"),
        "hyper_parameters": {k: v for k, v in settings.items() if _plain(v)},
        "seed": None,
        "dataset": None,
        "scale": {
            "model": "log1p",
            "input": "log1p",
            "target_sum": target_sum,
            "total_counts_col": None,
        },
        "columns": {key: data.get(key) for key in ("pert_col", "cell_type_key", "batch_col")},
        "control": control,
        "control_aliases": _spellings(control, vocabulary),
        **read_as(spelling.AUTO, vocabulary, [control]).said(),
        "perturbations": vocabulary,
        "lines": [],
        "batches": _batches(run, a, path),
        "embed_key": settings.get("embed_key"),
        "basal": "embedding" if embedding else "expression",
        "n_inputs": a.input_dim,
        "cell_set_len": settings.get("cell_set_len"),
        "checkpoints": {"best": {"why": f"imported from {path.name}"}},
        "imported": {"file": path.name, "digest": file_digest(path)},
        "versions": versions(("statetx", "torch", "safetensors")),
    }
    generator = np.random.default_rng(0)
    basal = generator.standard_normal((model_dir.GOLDEN_CELLS, a.input_dim))
    basal = basal if embedding else np.log1p(generator.poisson(1.0, basal.shape))
    model_dir.save(
        out,
        meta=meta,
        genes=names,
        checkpoints={"best": arrays},
        basal=basal.astype(np.float32),
        line="",
        perturbation=vocabulary[0],
        config={"imported_from": str(path)},
    )
    return {
        "checkpoint": str(path),
        "attention": meta["attention"],
        "parameters": sum(value.size for value in arrays.values()),
        "labels": len(vocabulary),
        "genes": len(names),
        "target_sum": target_sum,
    }


def _checkpoint(source: Path) -> tuple[Path, Path | None]:
    """Return the checkpoint and the directory of its run, if there is one."""
    if source.is_dir():
        for folder in (source / "checkpoints", source):
            for name in CHECKPOINTS:
                if (folder / f"{name}.ckpt").is_file():
                    return folder / f"{name}.ckpt", source
        raise ModelError(
            f"no checkpoint {' or '.join(f'{name}.ckpt' for name in CHECKPOINTS)} in this run",
            where=source,
            fix="give the checkpoint itself",
        )
    if not source.is_file():
        raise ModelError("no such file or directory", where=source, fix="correct the path")
    for folder in (source.parent, source.parent.parent):
        if any((folder / name).is_file() for name in (*MAPS, "config.yaml")):
            return source, folder
    return source, None


def _data_settings(run: Path | None) -> dict[str, Any]:
    path = None if run is None else run / "config.yaml"
    if path is None or not path.is_file():
        return {}
    fix = "correct it, or move it away: the command then names what is missing"
    content = read_yaml(path, Wanted("the configuration of the run", ModelError, fix))
    for key in ("data", "kwargs"):
        content = content.get(key) if isinstance(content, dict) else None
    return (
        {key: _text(value) for key, value in (content or {}).items()}
        if isinstance(content, dict)
        else {}
    )


def _text(value: Any) -> Any:
    """Convert a label or column name that YAML read as a number back to text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _vocabulary(run: Path | None, a: Architecture, path: Path) -> tuple[list[str], Tensor | None]:
    """Return the labels in the order of their ids, and their vectors if those are not one-hot."""
    where = _map_of(run)
    if where is None:
        log.warning(
            "%s: no %s was found: perturbations are named by their numbers, #0 … #%d",
            path,
            " or ".join(MAPS),
            a.pert_dim - 1,
        )
        return [f"#{i}" for i in range(a.pert_dim)], None
    table = read_map(where)
    vectors = torch.stack([torch.as_tensor(value).float() for value in table.values()])
    names = [str(name) for name in table]
    if vectors.shape[1] != a.pert_dim:
        raise ModelError(
            f"its vectors have {vectors.shape[1]} columns, the model takes {a.pert_dim}",
            where=where,
            fix="give the map of this checkpoint; this one belongs to another",
        )
    one_hot = bool(((vectors == 0) | (vectors == 1)).all() and (vectors.sum(1) == 1).all())
    ids = vectors.argmax(1).tolist()
    if one_hot and sorted(ids) == list(range(a.pert_dim)):
        return [name for _, name in sorted(zip(ids, names, strict=True))], None
    return names, vectors


def _map_of(run: Path | None) -> Path | None:
    """Return the map of perturbations of a run. If there are two, they must agree."""
    paths = [run / name for name in MAPS if (run / name).is_file()] if run is not None else []
    if len(paths) > 1:
        first, second = (read_map(path) for path in paths)
        same = first.keys() == second.keys() and all(
            torch.equal(torch.as_tensor(first[key]).float(), torch.as_tensor(second[key]).float())
            for key in first
        )
        if not same:
            raise ModelError(
                f"the run has two maps of perturbations that disagree: {' and '.join(MAPS)}",
                where=run,
                fix="copy the run without the map that does not belong to the checkpoint",
            )
    return paths[0] if paths else None


def _spellings(control: str, vocabulary: list[str]) -> list[str]:
    """Return other labels of the control, as in the data of users and in the data sets of Tahoe."""
    drug = spelling.parse(control).drug
    usual_spellings = [drug, f"{drug}_00", f"{drug}_0.0", f"{drug}_0", str([(drug, 0.0, "uM")])]
    known = spelling.control_spellings(vocabulary, [control])
    return sorted({*known, *usual_spellings} - {control})


def _control_first(
    vocabulary: list[str], settings: dict[str, Any], data: dict[str, Any], run: Path | None
) -> tuple[str, list[str], list[int]]:
    """Put the control first in the vocabulary.

    Return the control label, the new vocabulary, and the old place of each label.
    """
    stated = [str(v) for v in (data.get("control_pert"), settings.get("control_pert")) if v]
    control = next((name for name in stated if name in vocabulary), None)
    if control is None:
        control = (
            next(iter(spelling.control_spellings(vocabulary, stated)), None) if stated else None
        )
    if control is None:
        if (where := _map_of(run)) is not None:
            raise ModelError(
                f"none of the {len(vocabulary)} labels is the control {' or '.join(stated) or '?'}",
                where=where,
                fix="give the map of this run; this one belongs to another",
            )
        return (stated or ["control"])[0], vocabulary, list(range(len(vocabulary)))
    order = [vocabulary.index(control), *(i for i, n in enumerate(vocabulary) if n != control)]
    return control, [vocabulary[i] for i in order], order


def _genes(
    a: Architecture, settings: dict[str, Any], run: Path | None, given: Path | None, path: Path
) -> list[str]:
    """Return the names of the predicted columns."""
    if a.decoder is None and settings.get("embed_key") not in ("X_hvg", None):
        raise ModelError(
            f"the model predicts the embedding {settings['embed_key']!r} and has no trained gene "
            "decoder",
            where=path,
            fix="import a run with a trained gene decoder: expression cannot be scored without one",
        )
    wanted = a.output_dim if a.decoder is None else a.decoder.genes
    sources: list[tuple[str, list[str]]] = []
    if given is not None:
        reading = Wanted("the genes", ModelError, "give the names of the genes, one per line")
        lines = read_text(given, reading).splitlines()
        sources.append((str(given), [line.strip() for line in lines if line.strip()]))
    else:
        dims = {} if run is None else read_pickle(run / "var_dims.pkl")
        sources += [
            (name, [str(gene) for gene in found])
            for name, found in (
                ("var_dims.pkl", dims.get("gene_names")),
                ("hyper_parameters", settings.get("gene_names")),
            )
            if found is not None
        ]
    for _, names in sources:
        if len(names) == wanted and len(set(names)) == wanted:
            return names
    listed = (
        "; ".join(f"{where} lists {len(set(names))}" for where, names in sources)
        or "none are listed"
    )
    raise ModelError(
        f"the model predicts {wanted} genes, whose names are not known: {listed}",
        where=path,
        fix="give them in order, one per line: --genes FILE. For X_hvg they are the highly "
        "variable genes in the order of the training data",
    )


def _batches(run: Path | None, a: Architecture, path: Path) -> list[str]:
    """Return the batches in the order of their ids, for a model with a batch encoder."""
    if not a.batch_encoder:
        return []
    for name in ("batch_onehot_map.torch", "batch_onehot_map.pt", "batch_onehot_map.pkl"):
        where = None if run is None else run / name
        if where is not None and where.is_file():
            table = read_pickle(where) if where.suffix == ".pkl" else read_map(where)
            order = sorted(table, key=lambda key: int(np.argmax(np.asarray(table[key]))))
            if len(order) != a.batch_dim:
                raise ModelError(
                    f"it names {len(order)} batches, the model has {a.batch_dim}",
                    where=where,
                    fix="give the map of this checkpoint; this one belongs to another",
                )
            return [str(key) for key in order]
    log.warning("%s: no map of batches was found: batches are named by their numbers", path)
    return [f"#{i}" for i in range(a.batch_dim or 0)]


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return len(value) < 100 and all(map(_plain, value))
    return value is None or isinstance(value, str | int | float | bool)
