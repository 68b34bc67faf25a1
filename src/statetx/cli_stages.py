"""The commands of the stages: one run each, as the rules of the workflow call them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statetx.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from statetx.config import Config

ConfigFile = Annotated[Path, typer.Option("--config", help="configuration file")]
RunName = Annotated[str, typer.Option("--run", help="DATASET/SPLIT[/MODEL/SEED]")]
ExperimentName = Annotated[str, typer.Option("--experiment", help="name of an experiment")]
Line = Annotated[str | None, typer.Option(help="cell line; all test lines without it")]


def _run(config: Path, name: str, parts: int) -> tuple[Config, list[str]]:
    """Read the configuration and take ``DATASET/SPLIT/MODEL/SEED`` apart, each part checked."""
    from statetx.config import load

    cfg = load(config)
    given = name.split("/")
    if len(given) != parts:
        shape = "/".join(["DATASET", "SPLIT", "MODEL", "SEED"][:parts])
        raise typer.BadParameter(f"--run wants {shape}, got {name!r}")
    seeds = sorted({str(run.seed) for run in cfg.runs()})
    known = [list(cfg.datasets), cfg.split_names(), list(cfg.models), seeds]
    for part, options in zip(given, known, strict=False):
        if part not in options:
            raise ConfigError(
                f"the configuration has no {part!r}", where=config, fix=did_you_mean(part, options)
            )
    if parts > 1:
        from statetx import stages

        stages.check_fresh(cfg, given[0])
    return cfg, given


def _lines(plan: Path, line: str | None) -> list[str]:
    from statetx.data.plan import read_plan

    lines = read_plan(plan).lines("test")
    if line is not None and line not in lines:
        raise ConfigError(
            f"{line!r} is no test line of this split", where=plan, fix=did_you_mean(line, lines)
        )
    return lines if line is None else [line]


def _experiment(config: Path, name: str) -> Config:
    from statetx.config import load

    cfg = load(config)
    if name not in cfg.experiments:
        raise ConfigError(
            f"no experiment {name!r}", where=config, fix=did_you_mean(name, cfg.experiments)
        )
    return cfg


def pack(config: ConfigFile, run: RunName) -> None:
    """Sort source files into the store.

    Example: statetx pack --config config/config.yaml --run demo
    """
    from statetx import stages
    from statetx.data.pack import pack as work
    from statetx.data.room import check_room
    from statetx.source_files import source_files

    cfg, (dataset,) = _run(config, run, 1)
    files, out = [Path(f) for f in source_files(cfg, dataset)], stages.pack_dir(dataset)
    check_room(files, cfg.datasets[dataset], out, stages.parts_dir(dataset))
    work(files, cfg.datasets[dataset], dataset, out, stages.parts_dir(dataset))
    typer.echo(f"store: {out}")


def split(config: ConfigFile, run: RunName) -> None:
    """Decide which condition trains, validates or tests.

    Example: statetx split --config config/config.yaml --run demo/dc20
    """
    from statetx import stages
    from statetx.splits.split import split as work

    cfg, (dataset, name) = _run(config, run, 2)
    settings, fold = cfg.split(name)
    params = stages.split_params(cfg, name)
    report = work(
        stages.pack_dir(dataset),
        settings,
        fold,
        params["toml"],
        stages.split_dir(dataset, name),
        params["known"],
        cfg.one_hot(name),
    )
    typer.echo(report.text())


def genes(config: ConfigFile, run: RunName) -> None:
    """Choose highly variable genes on the training cells of a split.

    Example: statetx genes --config my.yaml --run mine/dc20
    """
    from statetx import stages
    from statetx.data.genes import genes as work

    cfg, (dataset, name) = _run(config, run, 2)
    n, out = cfg.n_hvg(name), stages.genes_file(cfg, dataset, name)
    if n is None or out is None:
        raise ConfigError(
            f"no model on split {name!r} works in chosen genes",
            where=config,
            fix="set `genes: {n_hvg: 2000}` of the model",
        )
    work(stages.pack_dir(dataset), stages.split_dir(dataset, name) / "plan.parquet", n, out)
    typer.echo(f"genes: {out}")


def train(config: ConfigFile, run: RunName) -> None:
    """Fit one model on one split with one seed.

    Example: statetx train --config config/config.yaml --run demo/dc20/pertsets/0
    """
    from statetx import jobs

    cfg, (dataset, name, model, seed) = _run(config, run, 4)
    jobs.train(cfg, dataset, name, model, int(seed))


def predict(config: ConfigFile, run: RunName, line: Line = None) -> None:
    """Predict the held-out cells of a plan.

    Example: statetx predict --config config/config.yaml --run demo/dc20/pertsets/0
    """
    from statetx import stages
    from statetx.data.layout import file_name
    from statetx.inference.predict import predict as work

    cfg, (dataset, name, model, seed) = _run(config, run, 4)
    plan = stages.split_dir(dataset, name) / "plan.parquet"
    genes = stages.genes_file(cfg, dataset, name)
    match = cfg.datasets[dataset].match_by_batch()
    home, store = stages.run_dir(dataset, name, model, int(seed)), stages.pack_dir(dataset)
    settings = cfg.evaluation
    for one in _lines(plan, line):
        for checkpoint in stages.checkpoints(cfg, model):
            out = home / "predictions" / checkpoint / f"{file_name(one)}.h5ad"
            cap, seed_of_draw = settings.max_cells, settings.seed
            work(
                home / "model",
                store,
                plan,
                one,
                checkpoint,
                cap,
                seed_of_draw,
                out,
                genes=genes,
                match_by_batch=match,
            )


def reference(config: ConfigFile, run: RunName, line: Line = None) -> None:
    """What the real cells of a test line say: DE, floor, ceiling.

    Example: statetx reference --config config/config.yaml --run demo/dc20
    """
    from statetx import stages
    from statetx.data.layout import file_name
    from statetx.evaluation.reference import reference as work

    cfg, (dataset, name) = _run(config, run, 2)
    home = stages.split_dir(dataset, name)
    for one in _lines(plan := home / "plan.parquet", line):
        out = home / "reference" / file_name(one)
        genes = stages.genes_file(cfg, dataset, name)
        work(stages.pack_dir(dataset), plan, one, cfg.evaluation, out, genes)


def evaluate_run(config: ConfigFile, run: RunName, line: Line = None) -> None:
    """Score the predictions of one run.

    Example: statetx evaluate-run --config config/config.yaml --run demo/dc20/pertsets/0
    """
    from statetx import stages
    from statetx.data.layout import file_name
    from statetx.evaluation.evaluate import evaluate_run as work

    cfg, (dataset, name, model, seed) = _run(config, run, 4)
    split_home = stages.split_dir(dataset, name)
    plan, home = split_home / "plan.parquet", stages.run_dir(dataset, name, model, int(seed))
    for one in _lines(plan, line):
        for checkpoint in stages.checkpoints(cfg, model):
            part = file_name(one)
            work(
                stages.pack_dir(dataset),
                plan,
                one,
                home / "predictions" / checkpoint / f"{part}.h5ad",
                split_home / "reference" / part,
                cfg.evaluation,
                home / "scores" / checkpoint / part,
                stages.genes_file(cfg, dataset, name),
            )


def verdict(config: ConfigFile, experiment: ExperimentName) -> None:
    """Say whether a model beats the best baseline.

    Example: statetx verdict --config config/config.yaml --experiment main
    """
    from statetx import jobs

    jobs.verdict(_experiment(config, experiment), experiment)


def report(config: ConfigFile, experiment: ExperimentName) -> None:
    """Draw the page of an experiment.

    Example: statetx report --config config/config.yaml --experiment main
    """
    from statetx import jobs

    typer.echo(f"page: {jobs.report(_experiment(config, experiment), experiment)}")


COMMANDS: tuple[Callable[..., Any], ...] = (
    pack,
    split,
    genes,
    train,
    predict,
    reference,
    evaluate_run,
    verdict,
    report,
)
"""In the order of the road."""
