"""Execution of a stage, shared by the scripts of the workflow and the commands."""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statetx.config import BASELINES, Config
from statetx.core import locks, stopping
from statetx.core.errors import ResultsError, always_printable
from statetx.core.records import known_checksum, refuse_mixture, write_record
from statetx.stages import fingerprints, parameters, paths
from statetx.stages.steps import Step

if TYPE_CHECKING:
    from statetx.evaluation.verdict.verdict import RefScores, RunScores


def train(cfg: Config, dataset: str, split: str, model: str, seed: int, threads: int = 0) -> None:
    """Train one run, as rule `train` does.

    Parameters
    ----------
    cfg
        The configuration.
    dataset, split, model, seed
        The run.
    threads
        Number of threads of torch; 0 leaves the choice to torch.

    Raises
    ------
    ResultsError
        Another process trains or prunes the run, or its model would replace other files.
    """
    from statetx.core.writes import check_target
    from statetx.models.model_dir import OWN

    home = paths.run_dir(dataset, split, model, seed)
    check_target(home / "model", OWN)
    # Of several processes that train one model, only the first holds the lock.
    if int(os.environ.get("RANK", "0")) and getattr(cfg.models[model], "devices", 1) > 1:
        _train(cfg, dataset, split, model, seed, threads)
        return
    with locks.held(locks.beside(home), f"the run {home}"):
        _train(cfg, dataset, split, model, seed, threads)
        _drop_states(dataset, split, model, seed)


def _train(cfg: Config, dataset: str, split: str, model: str, seed: int, threads: int) -> None:
    from statetx.training.fit import fit

    plan = paths.plan_file(dataset, split)
    store, home = paths.pack_dir(dataset), paths.run_dir(dataset, split, model, seed)
    params = parameters.train_params(cfg, model)
    if threads and cfg.models[model].kind not in BASELINES:
        import torch

        torch.set_num_threads(threads)
    genes, match = paths.genes_file(cfg, dataset, split), parameters.match_params(cfg, dataset)
    made_from = parameters.train_made_from(
        store, plan, params["settings"], params["code"], genes, match
    )
    name = {"dataset": dataset, "split": split, "model": model, "seed": seed}
    arguments: dict[str, Any] = {
        "store_dir": store,
        "plan_path": plan,
        "model": cfg.model(model),
        "seed": seed,
        "out": home / "model",
        "state_dir": paths.state_dir(dataset, split, model, seed, made_from),
        "checkpoints_dir": home / "checkpoints",
        "keep": sorted({"best", "last", *parameters.checkpoints(cfg, model)}),
        "tracking": cfg.tracking,
        "provenance": {**name, **made_from},
        "genes": genes,
        "match_by_batch": match,
        "draw": _draw,
        "progress": _progress,
    }
    devices = getattr(cfg.models[model], "devices", 1)
    if devices > 1:
        from statetx.training.launch import launch
        from statetx.training.processes import launched

        if not launched():
            launch(fit, arguments, devices)
            return
    fit(**arguments)


def _draw(metrics: str, best_step: int | None) -> str:
    from statetx.reporting.page.training_curves import draw

    return draw(metrics, best_step)


def _progress(last_step: int) -> Any:
    from statetx.training.loop.progress import Progress

    return Progress(last_step)


def _drop_states(dataset: str, split: str, model: str, seed: int) -> None:
    """Remove all saved states of a finished run, including those of earlier settings."""
    name = paths.state_prefix(dataset, split, model, seed)
    for left in (Path(".state") / "train").glob(f"{glob.escape(name)}*"):
        if re.fullmatch(r"[0-9a-f]{16}", left.name.removeprefix(name)) and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def verdict(cfg: Config, experiment: str) -> None:
    """Write the verdict of one experiment, as rule `verdict` does.

    Parameters
    ----------
    cfg
        The configuration.
    experiment
        Name of the experiment.
    """
    from statetx.evaluation.verdict.verdict import verdict as work

    dataset, checkpoint = cfg.experiment_dataset(experiment), cfg.evaluation.checkpoints[0]
    params = parameters.verdict_params(cfg, experiment)
    scores, references = judged(dataset, params["runs"], checkpoint)
    meta = {"experiment": experiment, "dataset": dataset, "checkpoint": checkpoint}
    meta["code"] = params["code"]
    work(scores, references, meta, cfg.evaluation, paths.verdict_file(dataset, experiment).parent)


def judged(
    dataset: str, runs: list[list[Any]], checkpoint: str
) -> tuple[list[RunScores], list[RefScores]]:
    """Return the inputs of `verdict`: scores of every run, reference of every test line.

    Parameters
    ----------
    dataset
        Name of the data set.
    runs
        ``[split, model, kind, seed]`` per run.
    checkpoint
        Checkpoint that the verdict compares; baselines have `best` only.
    """
    from statetx.config.root import Run
    from statetx.data.store.plan import read_plan
    from statetx.evaluation.verdict.verdict import RefScores, RunScores

    scores, references = [], {}
    for split, model, kind, seed in runs:
        for line in read_plan(paths.plan_file(dataset, split)).lines("test"):
            scored = "best" if kind in BASELINES else checkpoint
            table = paths.scores_dir(Run(dataset, split, model, seed), scored, line) / "scores.csv"
            scores.append(RunScores(split, model, kind, seed, line, table))
            directory = paths.reference_dir(dataset, split, line)
            references[split, line] = RefScores(split, line, directory)
    return scores, list(references.values())


def report(cfg: Config, experiment: str) -> Path:
    """Write the page of one experiment, as rule `report` does; return its path.

    Parameters
    ----------
    cfg
        The configuration.
    experiment
        Name of the experiment.
    """
    from statetx.reporting.page.page import RunFiles, page

    dataset = cfg.experiment_dataset(experiment)
    runs, out = cfg.runs(experiment), paths.page_file(experiment)
    page(
        paths.verdict_file(dataset, experiment),
        {run.split: paths.plan_file(dataset, run.split) for run in runs},
        [RunFiles(r.split, r.model, r.seed, paths.model_dir(*r)) for r in runs],
        paths.pack_dir(dataset) / "manifest.json",
        out,
        cfg.report.title or experiment,
    )
    return out


def packing(store: str | Path) -> contextlib.AbstractContextManager[None]:
    """Return a shared lock of a store, for the jobs of the workflow that pack it together.

    The command `statetx pack` takes an exclusive lock.

    Parameters
    ----------
    store
        Directory of the store.

    Raises
    ------
    ResultsError
        Another process holds the exclusive lock.
    """
    return locks.held(locks.beside(store), f"the store {store}", shared=True)


@contextlib.contextmanager
def recorded(step: Step) -> Iterator[None]:
    """Run a step in the block, then write the record of its outputs.

    Parameters
    ----------
    step
        The step.

    Raises
    ------
    ResultsError
        The inputs do not belong together, or the code changed since the workflow started.
    """
    if step.stage == "train" and int(os.environ.get("RANK", "0")):
        yield  # of several processes that train one model, the first writes the record
        return
    _check_code(step)
    if step.stage not in ("simulate", "pack"):  # their inputs do not have records
        refuse_mixture(step.inputs)
    inputs = {path: known_checksum(path) for path in step.inputs if path.exists()}
    yield
    _check_code(step)
    write_record(
        step.record,
        stage=step.stage,
        code=step.code,
        settings=step.settings,
        inputs=inputs,
        outputs=step.outputs,
    )


ASKED = "STATETX_ASKED_CODES"
"""Environment variable with the fingerprints of the code when the workflow started, as JSON.

A job on another machine parses the rules again. Without this variable, it would expect the code on
that machine.
"""


def ask_for_codes(cfg: Config) -> None:
    """Set `ASKED`, so that the jobs of this workflow can check that they run the same code.

    Parameters
    ----------
    cfg
        The configuration.
    """
    kinds = {section.kind for section in cfg.models.values()}
    codes = {
        f"{stage}/{kind}": fingerprints.code(stage, kind)
        for stage, roots in fingerprints.CODE.items()
        for kind in (kinds if any("{" in root for root in roots) else {None})
    }
    os.environ[ASKED] = json.dumps(codes)


def asked_codes() -> dict[str, str]:
    """Return the fingerprints that `ask_for_codes` set; an empty dict outside a workflow."""
    return dict(json.loads(os.environ.get(ASKED, "{}")))


def _check_code(step: Step) -> None:
    """Check that the code on disk is still the code with which the workflow started."""
    expected = asked_codes().get(f"{step.stage}/{step.kind}", step.code)
    if fingerprints.code_now(step.stage, step.kind) not in {step.code} & {expected}:
        raise ResultsError(
            f"the code of stage {step.stage} changed after this run was started, so its result "
            "would be recorded with the fingerprint of the earlier code",
            where=Path(paths.__file__).parents[1],
            fix="run the same command again",
        )


@contextlib.contextmanager
def job(log: str | Path | None = None) -> Iterator[None]:
    """Run a stage in the block: write its output to `log`, print errors without a traceback.

    The process exits with 1 on a `StatetxError`, and with 128 + its number on a signal.

    Parameters
    ----------
    log
        File for standard output and standard error; None leaves both unchanged.
    """
    handle = None
    always_printable()
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        handle = open(  # noqa: SIM115
            log, "w", buffering=1, encoding="utf-8", errors="backslashreplace"
        )
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
        sys.stdout = sys.stderr = handle
    logging.basicConfig(format="%(message)s")
    logging.getLogger("statetx").setLevel(logging.INFO)
    try:
        with stopping.door():
            yield
    finally:
        if handle is not None:
            handle.flush()
