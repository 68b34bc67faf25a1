"""Commands of the stages, which do the same work as the rules of the workflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statetx.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from statetx.config import Config
    from statetx.stages.steps import Step

ConfigFile = Annotated[Path, typer.Option("--config", help="configuration file")]
RunName = Annotated[str, typer.Option("--run", help="DATASET/SPLIT[/MODEL/SEED]")]
ExperimentName = Annotated[str, typer.Option("--experiment", help="name of an experiment")]
Line = Annotated[str | None, typer.Option(help="cell line; default: all test lines")]


def _run(config: Path, name: str, parts: int) -> tuple[Config, list[str]]:
    """Read the configuration, then split and check ``DATASET/SPLIT/MODEL/SEED``."""
    from statetx.config import load

    cfg = load(config)
    given = name.split("/")
    if len(given) != parts:
        shape = "/".join(["DATASET", "SPLIT", "MODEL", "SEED"][:parts])
        raise typer.BadParameter(f"--run needs {shape}, got {name!r}")
    seeds = sorted({str(run.seed) for run in cfg.runs()})
    known = [list(cfg.datasets), cfg.split_names(), list(cfg.models), seeds]
    for part, options in zip(given, known, strict=False):
        if part not in options:
            raise ConfigError(
                f"the configuration has no {part!r}", where=config, fix=did_you_mean(part, options)
            )
    if parts > 1:
        from statetx.stages import packed_sources

        packed_sources.check_fresh(cfg, given[0])
    return cfg, given


def _lines(plan: Path, line: str | None) -> list[str]:
    from statetx.data.store.plan import read_plan

    lines = read_plan(plan).lines("test")
    if line is not None and line not in lines:
        raise ConfigError(
            f"{line!r} is not a test line of this split", where=plan, fix=did_you_mean(line, lines)
        )
    return lines if line is None else [line]


def _experiment(config: Path, name: str) -> Config:
    from statetx.config import load

    cfg = load(config)
    if name not in cfg.experiments:
        raise ConfigError(
            f"the configuration has no experiment {name!r}",
            where=config,
            fix=did_you_mean(name, cfg.experiments),
        )
    return cfg


@contextmanager
def _recorded(cfg: Config, step: Step) -> Iterator[None]:
    """Check the inputs of a step, run it in the block, then write its record."""
    from statetx.stages import jobs, staleness

    staleness.refuse_stale_inputs(cfg, step)
    with jobs.recorded(step):
        yield


def pack(config: ConfigFile, run: RunName) -> None:
    """Pack source files into the store.

    Example: statetx pack --config config/config.yaml --run demo
    """
    from contextlib import ExitStack

    from statetx.data.pack.check_disk_space import check_room
    from statetx.data.pack.pack import pack as work
    from statetx.stages import packed_sources, paths, steps
    from statetx.stages.jobs import recorded
    from statetx.stages.source_files import source_files

    cfg, (dataset,) = _run(config, run, 1)
    files, out = [Path(f) for f in source_files(cfg, dataset)], paths.pack_dir(dataset)
    parts = paths.parts_dir(dataset)
    check_room(files, cfg.datasets[dataset], out, parts)
    if cfg.datasets[dataset].files != "simulate":
        packed_sources.compare_sources(cfg, dataset, out / "content.json")
    with ExitStack() as stack:
        for step in steps.pack_steps(cfg, dataset, packed_sources.cell_lines(cfg, dataset)):
            stack.enter_context(recorded(step))
        work(
            files,
            cfg.datasets[dataset],
            dataset,
            out,
            parts,
            packed_sources.packed_as(out / "content.json"),
        )
    typer.echo(f"store: {out}")


def split(config: ConfigFile, run: RunName) -> None:
    """Assign every condition to training, validation or test.

    Example: statetx split --config config/config.yaml --run demo/dc20
    """
    from statetx.splits.split import split as work
    from statetx.stages import parameters, paths, steps

    cfg, (dataset, name) = _run(config, run, 2)
    settings, fold = cfg.split(name)
    params = parameters.split_params(cfg, name)
    with _recorded(cfg, steps.split_step(cfg, name)):
        report = work(
            paths.pack_dir(dataset),
            settings,
            fold,
            params["toml"],
            paths.split_dir(dataset, name),
            params["known"],
            cfg.one_hot(name),
        )
    typer.echo(report.text())


def genes(config: ConfigFile, run: RunName) -> None:
    """Select highly variable genes on the training cells of a split.

    Example: statetx genes --config my.yaml --run mine/dc20
    """
    from statetx.data.store.genes import genes as work
    from statetx.stages import paths, steps

    cfg, (dataset, name) = _run(config, run, 2)
    n, out, step = (
        cfg.n_hvg(name),
        paths.genes_file(cfg, dataset, name),
        steps.genes_step(cfg, dataset, name),
    )
    if n is None or out is None or step is None:
        raise ConfigError(
            f"no model on split {name!r} uses selected genes",
            where=config,
            fix="add `genes: {n_hvg: 2000}` to the settings of the model",
        )
    with _recorded(cfg, step):
        work(paths.pack_dir(dataset), paths.plan_file(dataset, name), n, out)
    typer.echo(f"genes: {out}")


def train(config: ConfigFile, run: RunName) -> None:
    """Train one model on one split with one seed.

    Example: statetx train --config config/config.yaml --run demo/dc20/pertsets/0
    """
    from statetx.config.root import Run
    from statetx.stages import jobs, steps

    cfg, (dataset, name, model, seed) = _run(config, run, 4)
    which = Run(dataset, name, model, int(seed))
    if cfg.models[model].frozen:
        raise ConfigError(
            f"model {model!r} is frozen", where=config, fix=f"set models.{model}.frozen: false"
        )
    with _recorded(cfg, steps.train_step(cfg, which)):
        jobs.train(cfg, *which)


def predict(config: ConfigFile, run: RunName, line: Line = None) -> None:
    """Predict the held-out cells of a plan.

    Example: statetx predict --config config/config.yaml --run demo/dc20/pertsets/0
    """
    from statetx.config.root import Run
    from statetx.inference.predict import predict as work
    from statetx.stages import parameters, paths, steps

    cfg, (dataset, name, model, seed) = _run(config, run, 4)
    which = Run(dataset, name, model, int(seed))
    plan = paths.plan_file(dataset, name)
    genes = paths.genes_file(cfg, dataset, name)
    match = cfg.datasets[dataset].match_by_batch()
    home, store = paths.run_dir(dataset, name, model, int(seed)), paths.pack_dir(dataset)
    settings = cfg.evaluation
    for test_line in _lines(plan, line):
        for checkpoint in parameters.checkpoints(cfg, model):
            step = steps.predict_step(cfg, which, checkpoint, test_line)
            with _recorded(cfg, step):
                work(
                    home / "model",
                    store,
                    plan,
                    test_line,
                    checkpoint,
                    settings.max_cells,
                    settings.seed,
                    step.outputs[0],
                    genes=genes,
                    match_by_batch=match,
                )


def reference(config: ConfigFile, run: RunName, line: Line = None) -> None:
    """Compute differential expression, floor and ceiling of the real cells of a test line.

    Example: statetx reference --config config/config.yaml --run demo/dc20
    """
    from statetx.evaluation.held_out.reference import reference as work
    from statetx.stages import paths, steps

    cfg, (dataset, name) = _run(config, run, 2)
    home = paths.split_dir(dataset, name)
    for test_line in _lines(plan := home / "plan.parquet", line):
        step = steps.reference_step(cfg, dataset, name, test_line)
        genes = paths.genes_file(cfg, dataset, name)
        with _recorded(cfg, step):
            out = step.record.parent
            work(paths.pack_dir(dataset), plan, test_line, cfg.evaluation, out, genes)


def evaluate_run(config: ConfigFile, run: RunName, line: Line = None) -> None:
    """Score the predictions of one run.

    Example: statetx evaluate-run --config config/config.yaml --run demo/dc20/pertsets/0
    """
    from statetx.config.root import Run
    from statetx.data.store.layout import file_name
    from statetx.evaluation.held_out.evaluate import evaluate_run as work
    from statetx.stages import parameters, paths, steps

    cfg, (dataset, name, model, seed) = _run(config, run, 4)
    which = Run(dataset, name, model, int(seed))
    split_home = paths.split_dir(dataset, name)
    plan, home = split_home / "plan.parquet", paths.run_dir(dataset, name, model, int(seed))
    for test_line in _lines(plan, line):
        part = file_name(test_line)
        for checkpoint in parameters.checkpoints(cfg, model):
            step = steps.evaluate_step(cfg, which, checkpoint, test_line)
            with _recorded(cfg, step):
                work(
                    paths.pack_dir(dataset),
                    plan,
                    test_line,
                    home / "predictions" / checkpoint / f"{part}.h5ad",
                    split_home / "reference" / part,
                    cfg.evaluation,
                    step.record.parent,
                    paths.genes_file(cfg, dataset, name),
                )


def verdict(config: ConfigFile, experiment: ExperimentName) -> None:
    """Compare every model with the best baseline.

    Example: statetx verdict --config config/config.yaml --experiment main
    """
    from statetx.stages import jobs, steps

    cfg = _experiment(config, experiment)
    with _recorded(cfg, steps.verdict_step(cfg, experiment)):
        jobs.verdict(cfg, experiment)


def report(config: ConfigFile, experiment: ExperimentName) -> None:
    """Write the HTML page of an experiment.

    Example: statetx report --config config/config.yaml --experiment main
    """
    from statetx.stages import jobs, steps

    cfg = _experiment(config, experiment)
    with _recorded(cfg, steps.report_step(cfg, experiment)):
        page = jobs.report(cfg, experiment)
    typer.echo(f"page: {page}")


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
"""Commands in the order of the pipeline."""
