"""Fit a model on the training conditions of a plan and write its directory.

`fit` serves all kinds. Baselines are fitted from statistics (`statetx.training.fit_baseline`),
networks by gradient (`statetx.training.fit_network`). Both modules, and the module of the kind, are
imported by name. The code fingerprint of a baseline therefore does not contain the network's code,
and vice versa.
"""

from __future__ import annotations

import importlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from statetx.config import BASELINES, Tracking
from statetx.config.sections import Section
from statetx.core.digests import versions
from statetx.core.errors import ModelError, did_you_mean
from statetx.core.writes import sweep
from statetx.data.store.plan import read_plan
from statetx.data.store.store import Store, open_store
from statetx.models import model_dir
from statetx.training.inputs.controls import control_summary
from statetx.training.task import Task, Trained, Workspace

log = logging.getLogger("statetx.training")


def fit(
    store_dir: str | Path,
    plan_path: str | Path,
    model: Section,
    seed: int,
    out: Path,
    state_dir: Path,
    checkpoints_dir: Path,
    keep: Sequence[str] = ("best",),
    tracking: Tracking | None = None,
    provenance: Mapping[str, Any] | None = None,
    genes: str | Path | None = None,
    match_by_batch: Sequence[bool] = (True, False),
    draw: Callable[[str, int | None], str] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Fit a model and write its directory, completely or not at all.

    Parameters
    ----------
    store_dir
        Directory of the packed store.
    plan_path
        The plan. Its training conditions train, its validation conditions choose the checkpoint,
        and its test conditions are not read.
    model
        Section of the configuration, of any kind.
    seed
        The same seed gives the same weights: bitwise on a CPU with the same number of threads. The
        caller chooses this number (``torch.set_num_threads``). It is not part of a fingerprint.
    out
        The model directory.
    state_dir
        Undeclared directory from which an interrupted training resumes. Its name must depend on
        everything that training depends on. It is removed on success.
    checkpoints_dir
        Directory of ``step=N.safetensors``, written every ``ckpt_every_n_steps`` steps. Step
        checkpoints of another training are removed from it.
    keep
        Checkpoints that must be in `out`; ``best`` always is. Models without steps have only
        ``best``.
    tracking
        Where curves are sent, in addition to ``metrics.csv``.
    provenance
        Run name, code fingerprint and similar facts, for ``model.json``.
    genes
        Genes chosen on the split; None: all genes.
    match_by_batch
        Levels of control matching: whether the batch must agree.
    draw
        Function of the text of ``metrics.csv`` and the best step that returns ``curves.svg``.
    progress
        Function of the last step that returns a callback to show progress.

    Raises
    ------
    ModelError
        The plan has no training condition, labels or matrix do not fit, training will not write a
        checkpoint of `keep`, a loss is not finite, or training was interrupted. `out` is then not
        written.
    """
    kind: str = model.kind  # type: ignore[attr-defined]
    store = open_store(store_dir, genes)
    task = _task(store, Path(plan_path), model, seed, tuple(match_by_batch))
    way = importlib.import_module(
        f"statetx.training.{'fit_baseline' if kind in BASELINES else 'fit_network'}"
    )
    workspace = Workspace(
        Path(state_dir),
        Path(checkpoints_dir),
        Path(out).parent,
        tuple(keep),
        tracking or Tracking(),
        progress,
    )
    trained: Trained | None = way.train(task) if kind in BASELINES else way.train(task, workspace)
    if trained is None:
        return  # the first of several processes writes the directory
    decodes = getattr(model, "gene_decoder", None) is not None
    embedding: str | None = model.embed_key if decodes else None  # type: ignore[attr-defined]
    line = task.plan.lines("train")[0]
    cells = task.store.line(line)
    rows = cells.rows(task.store.control)[: model_dir.GOLDEN_CELLS]
    meta, control_mean = _meta(task, trained, dict(provenance or {})), None
    if embedding is None:
        control_mean, meta["controls"] = control_summary(task)
    sweep(Path(out))
    model_dir.save(
        Path(out),
        meta=meta,
        genes=task.store.genes,
        checkpoints=trained.checkpoints,
        basal=cells.expression(rows) if embedding is None else cells.embedding(embedding, rows),
        line=line,
        perturbation=task.plan.perturbations("train", line)[0],
        control_mean=control_mean,
        metrics=trained.metrics,
        curves=None
        if draw is None or trained.metrics is None
        else draw(trained.metrics, trained.chosen["best"]["step"]),
        config={"model": model.model_dump(mode="json", exclude={"frozen"}), "seed": seed},
    )
    shutil.rmtree(state_dir, ignore_errors=True)


def _task(
    store: Store, plan_path: Path, model: Any, seed: int, match_by_batch: tuple[bool, ...]
) -> Task:
    """Return the task, after checking that plan, store and model fit."""
    plan = read_plan(plan_path)
    if not plan.conditions("train"):
        raise ModelError(
            "the plan has no training condition",
            where=plan_path,
            fix="fix the split: nothing can be learnt from an empty training set",
        )
    held = store.conditions[["line", "perturbation"]].drop_duplicates()
    known = set(zip(held["line"], held["perturbation"], strict=True))
    for condition in plan.conditions("train") + plan.conditions("val"):
        if condition not in known:
            raise ModelError(
                f"the plan names the condition {condition}, which the store does not contain",
                where=plan_path,
                fix="run the split stage again: plan and store belong to different data",
            )
    expression_key = store.manifest["expression_key"]
    if expression_key is not None:
        log.info(
            "the genes of obsm %r were chosen outside this split, possibly on its test cells",
            expression_key,
        )
    if getattr(model, "gene_decoder", None) is not None:
        held_keys = store.manifest["embeddings"]
        if model.embed_key not in held_keys:
            raise ModelError(
                f"the model works in the embedding {model.embed_key!r}, which the store does not "
                "contain",
                where=store.directory,
                fix=f"{did_you_mean(str(model.embed_key), held_keys)} Add it to embed_keys of the "
                "data set",
            )
    elif hasattr(model, "embed_key") and model.embed_key != expression_key:
        raise ModelError(
            f"the model works in embed_key {model.embed_key!r}, "
            f"but the data set is scored in expression_key {expression_key!r}",
            where=store.directory,
            fix="set both to the same matrix",
        )
    labels = plan.perturbations("train")
    if store.control in labels:
        raise ModelError(
            f"the plan lists the control {store.control!r} as a training perturbation",
            where=plan_path,
            fix="run the split stage again: controls serve every role, and plans do not list them",
        )
    return Task(store, plan, plan_path, [store.control, *labels], model, seed, match_by_batch)


def _meta(task: Task, trained: Trained, provenance: dict[str, Any]) -> dict[str, Any]:
    manifest, plan = task.store.manifest, task.plan
    conditions = task.store.conditions
    lines = plan.lines("train")
    batches = conditions.loc[conditions["line"].isin(lines), "batch"].unique()
    genes = task.store.genes
    decodes = getattr(task.model, "gene_decoder", None) is not None
    embedding = task.model.embed_key if decodes else None
    n_inputs = len(genes) if embedding is None else int(manifest["embeddings"][embedding])
    return {
        "kind": task.model.kind,
        "architecture": trained.architecture,
        "attention": trained.architecture.get("backbone", {}).get("attention"),
        "hyper_parameters": task.model.model_dump(mode="json", exclude={"frozen"}),
        "seed": task.seed,
        "dataset": manifest.get("dataset"),
        "scale": {
            "model": "log1p",
            "input": manifest["scale"],
            "target_sum": manifest["target_sum"],
            "total_counts_col": manifest.get("total_counts_col"),
        },
        "columns": {key: manifest.get(key) for key in ("pert_col", "cell_type_key", "batch_col")},
        "control": task.store.control,
        "control_aliases": list(manifest.get("control_aliases", [])),
        **task.store.reading.said(),
        "perturbations": task.vocabulary,
        "lines": lines,
        "batches": sorted(str(batch) for batch in batches),
        "embed_key": embedding or manifest["expression_key"],
        "basal": "expression" if embedding is None else "embedding",
        "embedding": {"expression_key": manifest["expression_key"], "width": n_inputs},
        "n_inputs": n_inputs,
        "cell_set_len": trained.cell_set_len,
        "split": {
            "digest": plan.digest,
            **{f"n_{role}": len(plan.conditions(role)) for role in ("train", "val", "test")},
        },
        "checkpoints": trained.chosen,
        "provenance": provenance,
        "versions": versions(trained.packages),
        **trained.facts,
    }
