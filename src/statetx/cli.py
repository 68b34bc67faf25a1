"""The command line: one command per stage, and tools for people with their own cells.

Exit codes: 0 done, 1 something wrong with data, files or results, 2 wrong use of the command line.
Imports stay inside the commands, so that ``statetx --help`` answers at once.
"""

from __future__ import annotations

import enum
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from statetx.errors import ConfigError, StatetxError, did_you_mean

if TYPE_CHECKING:
    from statetx.config import Config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train, predict, score and judge models of how cells respond to perturbations.",
)

ConfigFile = Annotated[Path, typer.Option("--config", help="configuration file")]
RunName = Annotated[str, typer.Option("--run", help="DATASET/SPLIT[/MODEL/SEED]")]
ExperimentName = Annotated[str, typer.Option("--experiment", help="name of an experiment")]
Column = Annotated[str | None, typer.Option(help="obs column; the model's without it")]
Line = Annotated[str | None, typer.Option(help="cell line; all test lines without it")]


class Scale(enum.StrEnum):
    """What a matrix holds."""

    log1p = "log1p"
    counts = "counts"


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
    return cfg, given


def _lines(plan: Path, line: str | None) -> list[str]:
    from statetx.data.plan import read_plan

    lines = read_plan(plan).lines("test")
    if line is not None and line not in lines:
        raise ConfigError(
            f"{line!r} is no test line of this split", where=plan, fix=did_you_mean(line, lines)
        )
    return lines if line is None else [line]


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="directory for the h5ad files")],
    seed: Annotated[int, typer.Option(help="seed of truth and cells")] = 0,
) -> None:
    """Planted-truth data: one h5ad per cell line, and truth.parquet.

    Example: statetx simulate /tmp/cells
    """
    from statetx.config import Simulate
    from statetx.data.simulate import simulate as run

    run(Simulate(seed=seed), out)
    typer.echo(f"cells: {out}")


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="h5ad files of one data set")],
    config: Annotated[Path | None, typer.Option(help="configuration that declares them")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="its data set; the only one without it")
    ] = None,
) -> None:
    """Show layout, scale, labels, controls and problems of h5ad files.

    Example: statetx inspect plate1.h5ad plate2.h5ad --config my.yaml
    """
    from statetx.config import load
    from statetx.data.h5ad import inspect as work
    from statetx.reporting.inspection import print_inspection

    settings = None
    if config is not None:
        declared = load(config).datasets
        name = dataset or (next(iter(declared)) if len(declared) == 1 else "")
        if name not in declared:
            raise ConfigError(
                f"no data set {name!r}" if name else "there are several data sets: choose one",
                where=config,
                fix=f"--dataset: {did_you_mean(name, declared)}",
            )
        settings = declared[name]
    print_inspection(found := work(files, settings))
    if found.problems:
        raise typer.Exit(1)


@app.command()
def pack(config: ConfigFile, run: RunName) -> None:
    """Sort source files into the store.

    Example: statetx pack --config config/config.yaml --run demo
    """
    from statetx import stages
    from statetx.data.pack import pack as work

    cfg, (dataset,) = _run(config, run, 1)
    files, out = [Path(f) for f in stages.source_files(cfg, dataset)], stages.pack_dir(dataset)
    work(files, cfg.datasets[dataset], dataset, out)
    typer.echo(f"store: {out}")


@app.command()
def split(config: ConfigFile, run: RunName) -> None:
    """Decide which condition trains, validates or tests.

    Example: statetx split --config config/config.yaml --run demo/dc20
    """
    from statetx import stages
    from statetx.splits.split import split as work

    cfg, (dataset, name) = _run(config, run, 2)
    settings, fold = cfg.split(name)
    toml = stages.split_params(cfg, name)["toml"]
    report = work(stages.pack_dir(dataset), settings, fold, toml, stages.split_dir(dataset, name))
    typer.echo(report.text())


@app.command()
def train(config: ConfigFile, run: RunName) -> None:
    """Fit one model on one split with one seed.

    Example: statetx train --config config/config.yaml --run demo/dc20/pertsets/0
    """
    from statetx import jobs

    cfg, (dataset, name, model, seed) = _run(config, run, 4)
    jobs.train(cfg, dataset, name, model, int(seed))


@app.command()
def predict(config: ConfigFile, run: RunName, line: Line = None) -> None:
    """Predict the held-out cells of a plan.

    Example: statetx predict --config config/config.yaml --run demo/dc20/pertsets/0
    """
    from statetx import stages
    from statetx.data.layout import file_name
    from statetx.inference.predict import predict as work

    cfg, (dataset, name, model, seed) = _run(config, run, 4)
    plan = stages.split_dir(dataset, name) / "plan.parquet"
    home, store = stages.run_dir(dataset, name, model, int(seed)), stages.pack_dir(dataset)
    settings = cfg.evaluation
    for one in _lines(plan, line):
        for checkpoint in stages.checkpoints(cfg, model):
            out = home / "predictions" / checkpoint / f"{file_name(one)}.h5ad"
            work(
                home / "model", store, plan, one, checkpoint, settings.max_cells, settings.seed, out
            )


@app.command()
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
        work(stages.pack_dir(dataset), plan, one, cfg.evaluation, out)


@app.command()
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
            )


@app.command()
def verdict(config: ConfigFile, experiment: ExperimentName) -> None:
    """Say whether a model beats the best baseline.

    Example: statetx verdict --config config/config.yaml --experiment main
    """
    from statetx import jobs

    jobs.verdict(_experiment(config, experiment), experiment)


@app.command()
def report(config: ConfigFile, experiment: ExperimentName) -> None:
    """Draw the page of an experiment.

    Example: statetx report --config config/config.yaml --experiment main
    """
    from statetx import jobs

    typer.echo(f"page: {jobs.report(_experiment(config, experiment), experiment)}")


def _experiment(config: Path, name: str) -> Config:
    from statetx.config import load

    cfg = load(config)
    if name not in cfg.experiments:
        raise ConfigError(
            f"no experiment {name!r}", where=config, fix=did_you_mean(name, cfg.experiments)
        )
    return cfg


@app.command()
def evaluate(
    pred: Annotated[Path, typer.Option(help="h5ad with predicted cells")],
    real: Annotated[Path, typer.Option(help="h5ad with real cells and controls")],
    out: Annotated[Path, typer.Option(help="directory for the tables")],
    pert_col: Annotated[str, typer.Option(help="obs column with the perturbation")],
    control_pert: Annotated[str, typer.Option(help="control label")],
    celltype_col: Annotated[str | None, typer.Option(help="obs column with the cell line")] = None,
    embed_key: Annotated[
        str | None,
        typer.Option(help="obsm matrix for cell-eval's discrimination l2 and cosine, as there"),
    ] = None,
    profile: Annotated[str, typer.Option(help="full, minimal, de, anndata, vcc or pds")] = "full",
    scale: Annotated[Scale, typer.Option(help="what both files hold")] = Scale.log1p,
) -> None:
    """Score anybody's predictions: cell-eval's tables, and ours.

    Example: statetx evaluate --pred p.h5ad --real r.h5ad --pert-col drug_dose --control-pert DMSO --out scores
    """
    from statetx.evaluation.standalone import evaluate_files

    scored = evaluate_files(
        pred,
        real,
        pert_col,
        control_pert,
        celltype_col,
        embed_key,
        out=out,
        profile=profile,
        scale=scale.value,
    )
    typer.echo(f"{len(scored)} sets of tables: {out}")


@app.command()
def infer(
    model: Annotated[Path, typer.Option(help="model directory")],
    adata: Annotated[Path, typer.Option(help="h5ad with your cells, controls among them")],
    out: Annotated[Path, typer.Option(help="h5ad to write")],
    table: Annotated[
        Path | None, typer.Option(help="CSV: perturbation, cell_line[, n_cells]")
    ] = None,
    pert_col: Column = None,
    celltype_col: Column = None,
    batch_col: Column = None,
    control_pert: Annotated[str | None, typer.Option(help="control label in your cells")] = None,
    embed_key: Annotated[
        str | None, typer.Option(help="obsm matrix; the model's without it")
    ] = None,
    celltypes: Annotated[str | None, typer.Option(help="only these cell lines: A,B")] = None,
    on_unknown: Annotated[str, typer.Option(help="error or skip")] = "error",
    checkpoint: Annotated[str, typer.Option(help="best, last or step=N")] = "best",
    seed: Annotated[int, typer.Option(help="seed of the control draw")] = 0,
) -> None:
    """Predict perturbations for your own cells.

    Example: statetx infer --model results/demo/dc20/pertsets/seed0/model --adata mine.h5ad --out predicted.h5ad
    """
    from statetx.inference.infer import infer as work

    n_cells = work(
        model,
        adata,
        out,
        table=table,
        pert_col=pert_col,
        celltype_col=celltype_col,
        batch_col=batch_col,
        control_pert=control_pert,
        embed_key=embed_key,
        celltypes=celltypes.split(",") if celltypes else None,
        on_unknown=on_unknown,
        checkpoint=checkpoint,
        seed=seed,
    )
    typer.echo(f"{n_cells} predicted cells: {out}")


@app.command()
def prune(
    run_dir: Annotated[Path, typer.Argument(help="results/DATASET/SPLIT/MODEL/seedN")],
    keep: Annotated[
        str, typer.Option(help="checkpoints that stay: best,last,step=N")
    ] = "best,last",
    delete: Annotated[bool, typer.Option("--delete", help="really delete")] = False,
) -> None:
    """Say which step checkpoints nobody needs; delete them when asked.

    Example: statetx prune results/demo/dc20/pertsets/seed0 --delete
    """
    from statetx.maintenance.prune import prune as work
    from statetx.maintenance.prune import text

    typer.echo(text(work(run_dir, keep.split(","), delete)))


@app.command()
def show(
    verdict: Annotated[Path, typer.Argument(help="verdict.json")],
    page: Annotated[Path | None, typer.Option(help="page to name under the table")] = None,
) -> None:
    """Print the table of a verdict.

    Example: statetx show results/demo/main/verdict.json
    """
    from statetx.reporting.table import print_verdict

    print_verdict(verdict)
    if page is not None:
        typer.echo(f"page: {page.resolve()}")


def _dashed(argument: str) -> str:
    """Accept ``--pert_col`` for ``--pert-col``: scripts written for other tools use underscores."""
    if not argument.startswith("--"):
        return argument
    name, sign, value = argument.partition("=")
    return name.replace("_", "-") + sign + value


def main() -> None:
    """Run a command; an error a user can mend is one block."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("statetx").setLevel(logging.INFO)
    try:
        app([_dashed(argument) for argument in sys.argv[1:]])
    except StatetxError as error:
        if os.environ.get("STATETX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
