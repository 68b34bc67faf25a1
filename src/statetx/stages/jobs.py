"""Run a stage as the workflow does: for its scripts and for the commands of the same names."""

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
    """Train one run, as rule `train` does; ``threads = 0`` leaves their number to torch.

    Raises
    ------
    ResultsError
        Another process trains or prunes the run, or its model would replace something else.
    """
    from statetx.core.writes import check_target
    from statetx.models.model_dir import OWN

    home = paths.run_dir(dataset, split, model, seed)
    check_target(home / "model", OWN)
    # Of several processes on several machines the first one answers for all.
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
    """Remove the states of unfinished trainings of a run of other settings: its model is finished."""
    name = paths.state_prefix(dataset, split, model, seed)
    for left in (Path(".state") / "train").glob(f"{glob.escape(name)}*"):
        if re.fullmatch(r"[0-9a-f]{16}", left.name.removeprefix(name)) and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def verdict(cfg: Config, experiment: str) -> None:
    """Judge one experiment, as rule `verdict` does."""
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
    """What `verdict` reads: the scores of every run, the reference of every test line.

    Parameters
    ----------
    runs
        ``[split, model, kind, seed]`` per run.
    checkpoint
        The one that is judged; baselines have `best` only.
    """
    from statetx.config.root import Run
    from statetx.data.store.plan import read_plan
    from statetx.evaluation.verdict.verdict import RefScores, RunScores

    scores, references = [], {}
    for split, model, kind, seed in runs:
        for line in read_plan(paths.plan_file(dataset, split)).lines("test"):
            own = "best" if kind in BASELINES else checkpoint
            table = paths.scores_dir(Run(dataset, split, model, seed), own, line) / "scores.csv"
            scores.append(RunScores(split, model, kind, seed, line, table))
            directory = paths.reference_dir(dataset, split, line)
            references[split, line] = RefScores(split, line, directory)
    return scores, list(references.values())


def report(cfg: Config, experiment: str) -> Path:
    """Draw the page of one experiment, as rule `report` does; return its path."""
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
    """Lock a store for one of the jobs that pack it together; `statetx pack` wants it alone."""
    return locks.held(locks.beside(store), f"the store {store}", shared=True)


@contextlib.contextmanager
def recorded(step: Step) -> Iterator[None]:
    """Run a step and leave a record of what it was made from.

    Raises
    ------
    ResultsError
        Its inputs do not belong together, or this is not the code that was asked for.
    """
    if step.stage == "train" and int(os.environ.get("RANK", "0")):
        yield  # of several processes that train one model, the first keeps the record
        return
    _check_code(step)
    if step.stage not in ("simulate", "pack"):  # whose inputs no stage made
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
"""Variable of the environment with the fingerprints that the workflow started with, as JSON.

A job on another machine reads the rules again, and would ask for the code that it finds there.
"""


def ask_for_codes(cfg: Config) -> None:
    """Tell the jobs of this workflow which code they are to run."""
    kinds = {section.kind for section in cfg.models.values()}
    codes = {
        f"{stage}/{kind}": fingerprints.code(stage, kind)
        for stage, roots in fingerprints.CODE.items()
        for kind in (kinds if any("{" in root for root in roots) else {None})
    }
    os.environ[ASKED] = json.dumps(codes)


def asked_codes() -> dict[str, str]:
    """Return what `ask_for_codes` told; nothing outside a workflow."""
    return dict(json.loads(os.environ.get(ASKED, "{}")))


def _check_code(step: Step) -> None:
    """Refuse to run, or to have run, other code than the workflow asked for when it started."""
    expected = asked_codes().get(f"{step.stage}/{step.kind}", step.code)
    if fingerprints.code_now(step.stage, step.kind) not in {step.code} & {expected}:
        raise ResultsError(
            f"the code of stage {step.stage} changed after this run was started: its result would "
            "be taken for one of the earlier code",
            where=Path(paths.__file__).parents[1],
            fix="start the same command again",
        )


@contextlib.contextmanager
def job(log: str | Path | None = None) -> Iterator[None]:
    """Run a stage: its output goes to `log`; an error a user can mend is one block, not a trace.

    Exits with 1 on a `StatetxError`, with 128 + its number on a signal.
    """
    handle = None
    always_printable()
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        handle = open(log, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
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
