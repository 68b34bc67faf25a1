"""Command line of statetx: one command per stage, and tools for a user's own cells.

Exit codes: 0 success, 1 error in data, files or results, 2 wrong use of the command line. Imports
are inside the commands, so that ``statetx --help`` is fast.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from statetx.cli import scores as cli_scores
from statetx.cli import stages as cli_stages
from statetx.cli.scores import Force, Labels, Scale
from statetx.core.errors import always_printable
from statetx.core.stopping import door

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train, predict, score and compare models of how cells respond to perturbations.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("statetx"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Train, predict, score and compare models of how cells respond to perturbations."""


Column = Annotated[str | None, typer.Option(help="obs column; default: that of the model")]


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="directory for the h5ad files")],
    seed: Annotated[int, typer.Option(help="random seed of effects and cells")] = 0,
) -> None:
    """Simulate cells with known effects: one h5ad per cell line, and truth.parquet.

    Example: statetx simulate /tmp/cells
    """
    from statetx.config import Simulate
    from statetx.core.writes import check_new
    from statetx.data.simulate import line_names
    from statetx.data.simulate import simulate as run
    from statetx.data.store.layout import file_name

    settings = Simulate(seed=seed)
    cells = [f"{file_name(line)}.h5ad" for line in line_names(settings)]
    for name in (*cells, "truth.parquet"):
        check_new(out / name, False, lambda _: False)
    run(settings, out)
    typer.echo(f"cells: {out}")


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="h5ad files of one data set")],
    config: Annotated[Path | None, typer.Option(help="configuration of these files")] = None,
    dataset: Annotated[str | None, typer.Option(help="data set of the configuration")] = None,
    pert_col: Annotated[str | None, typer.Option(help="obs column: perturbation")] = None,
    cell_type_key: Annotated[str | None, typer.Option(help="obs column: cell line")] = None,
    batch_col: Annotated[str | None, typer.Option(help="obs column: batch")] = None,
    control_pert: Annotated[list[str] | None, typer.Option(help="control label, aliases")] = None,
    scale: Annotated[Scale | None, typer.Option(help="values in X")] = None,
    cell_set_len: Annotated[int, typer.Option(min=2, help="number of cells per set")] = 256,
    full: Annotated[bool, typer.Option("--full", help="read every value, not a sample")] = False,
) -> None:
    """Show layout, scale, labels, controls, needed space and problems of h5ad files.

    Example: statetx inspect plate1.h5ad plate2.h5ad --pert-col drug_dose --control-pert DMSO
    """
    from statetx.data.inspection import design
    from statetx.data.inspection import inspect as h5ad
    from statetx.reporting.terminal.inspection import print_inspection

    given = (pert_col, cell_type_key, batch_col, tuple(control_pert or ()), scale and scale.value)
    if config is not None and any(given):
        raise typer.BadParameter("give the configuration or the columns, not both")
    known = design.declared(config, dataset, design.Columns(*given))
    print_inspection(found := h5ad.inspect(files, known, full, "results"), cell_set_len)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def lint(
    toml: Annotated[Path, typer.Argument(help="split in cell-load's TOML")],
    data: Annotated[
        Path | None,
        typer.Option(help="packed store, or table with line, perturbation, n_cells[, batch]"),
    ] = None,
    pert_col: Annotated[str, typer.Option(help="obs column: perturbation")] = "drug_dose",
    cell_type_key: Annotated[str, typer.Option(help="obs column: cell line")] = "cell_line",
    batch_col: Annotated[str | None, typer.Option(help="obs column: batch")] = None,
    control_pert: Annotated[
        list[str] | None,
        typer.Option(help="control label; repeat for aliases; default DMSO_TF_00"),
    ] = None,
    labels: Labels = "auto",
    compat: Annotated[
        bool, typer.Option("--compat", help="warn about mistakes that cell-load ignores")
    ] = False,
    allow: Annotated[list[str] | None, typer.Option(help="check whose errors only warn")] = None,
    features: Annotated[
        bool, typer.Option("--features", help="models know drugs by features, not by id only")
    ] = False,
    partition: Annotated[
        bool, typer.Option("--partition", help="controls will be partitioned between roles")
    ] = False,
    min_cells: Annotated[int, typer.Option(min=0, help="report smaller test conditions")] = 0,
    drug_table: Annotated[Path | None, typer.Option(help="table of drugs")] = None,
    drug_name: Annotated[str, typer.Option(help="column of the table with names")] = "drug",
    smiles: Annotated[str | None, typer.Option(help="column of the table with SMILES")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="file for the report")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="picture of lines x drugs: .svg or .png")
    ] = None,
    force: Force = False,
) -> None:
    """Show the conditions of a split and every problem in it.

    Example: statetx lint split.toml --data results/demo/pack --picture split.svg
    """
    from statetx.config.splits import DrugTable
    from statetx.core.text_files import write_json
    from statetx.core.writes import check_new
    from statetx.data.inspection.design import Columns
    from statetx.data.store.layout import file_name
    from statetx.reporting.page.split_picture import write_picture
    from statetx.splits.lint_file import lint_file
    from statetx.stages import outputs

    if json_out is not None:
        check_new(json_out, force, outputs.is_lint_report)
    if picture is not None:
        check_new(picture, force, outputs.is_picture)
    table = None
    if drug_table is not None:
        table = DrugTable(path=str(drug_table), name=drug_name, smiles=smiles)
    reports = {}
    for name, plan, report in lint_file(
        toml,
        data,
        Columns(
            pert_col,
            cell_type_key,
            batch_col,
            tuple(control_pert or ["DMSO_TF_00"]),
            labels=labels,
        ),
        compat=compat,
        allow=tuple(allow or ()),
        one_hot=not features,
        partition=partition,
        min_cells=min_cells,
        drug_table=table,
    ):
        typer.echo(f"{toml}, data set {name!r}\n\n{report.text()}\n")
        reports[name] = report
        if picture is not None and not plan.empty:
            several = f".{file_name(name)}" if reports.keys() - {name} else ""
            drawn = picture.with_stem(picture.stem + several)
            check_new(drawn, force, outputs.is_picture)
            write_picture(plan, drawn, report.reading)
    if json_out is not None:
        first = next(iter(reports.values()))
        many = {name: report.as_dict() for name, report in reports.items()}
        write_json(json_out, first.as_dict() if len(reports) == 1 else many)
    if any(report.failed for report in reports.values()):
        raise typer.Exit(1)


@app.command()
def infer(
    model: Annotated[Path, typer.Option(help="model directory")],
    adata: Annotated[Path, typer.Option(help="h5ad with your cells, including controls")],
    out: Annotated[Path, typer.Option(help="h5ad to write")],
    table: Annotated[
        Path | None, typer.Option(help="CSV: perturbation, cell_line[, n_cells]")
    ] = None,
    pert_col: Column = None,
    celltype_col: Column = None,
    batch_col: Column = None,
    control_pert: Annotated[str | None, typer.Option(help="control label in your cells")] = None,
    embed_key: Annotated[
        str | None, typer.Option(help="obsm matrix; default: that of the model")
    ] = None,
    celltypes: Annotated[str | None, typer.Option(help="only these cell lines: A,B")] = None,
    on_unknown: Annotated[
        str, typer.Option(help="perturbations that the model does not know: error or skip")
    ] = "error",
    checkpoint: Annotated[str, typer.Option(help="best, last or step=N")] = "best",
    seed: Annotated[int, typer.Option(help="random seed of the control draw")] = 0,
    fill_missing: Annotated[
        str, typer.Option(help="genes missing in your cells: error, 0 or control_mean")
    ] = "error",
    total_counts_col: Annotated[
        str | None, typer.Option(help="obs column with total counts of a cell over all genes")
    ] = None,
    force: Force = False,
) -> None:
    """Predict perturbations for your own cells.

    Example: statetx infer --model results/demo/dc20/pertsets/seed0/model --adata mine.h5ad --out predicted.h5ad
    """
    from statetx.core.writes import check_new
    from statetx.inference.infer import infer as work
    from statetx.stages import outputs

    check_new(out, force, outputs.is_prediction)
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
        fill_missing=fill_missing,
        total_counts_col=total_counts_col,
    )
    typer.echo(f"{n_cells} predicted cells: {out}")


@app.command(name="import")
def import_model(
    source: Annotated[Path, typer.Argument(help="State run directory, or .ckpt file")],
    out: Annotated[Path, typer.Option(help="model directory to write")],
    attention: Annotated[
        str | None, typer.Option(help="attention mode or auto, if the checkpoint does not state it")
    ] = None,
    genes: Annotated[
        Path | None, typer.Option(help="file with the names of the predicted genes, one per line")
    ] = None,
    adata: Annotated[
        Path | None, typer.Option(help="h5ad with controls, for --attention auto")
    ] = None,
    target_sum: Annotated[
        float, typer.Option(min=1.0, help="total counts that training cells were normalised to")
    ] = 10_000.0,
    force: Force = False,
) -> None:
    """Convert a released State run to a model directory.

    Example: statetx import ST-HVG-Replogle/run --out models/replogle --genes hvg_genes.txt
    """
    from statetx.core.writes import check_new
    from statetx.inference.import_run import import_run
    from statetx.models.model_dir import OWN
    from statetx.stages import outputs

    check_new(out, force, outputs.is_model, OWN)
    facts = import_run(source, out, attention, genes, adata, target_sum)
    typer.echo(
        f"{facts['parameters']:,} parameters, {facts['labels']} perturbations, "
        f"{facts['genes']} genes, attention {facts['attention']}, "
        f"target sum {facts['target_sum']:,.7g}\nmodel: {out}"
    )


@app.command()
def prune(
    run_dir: Annotated[Path, typer.Argument(help="results/DATASET/SPLIT/MODEL/seedN")],
    keep: Annotated[str, typer.Option(help="checkpoints to keep: best,last,step=N")] = "best,last",
    delete: Annotated[
        bool, typer.Option("--delete", help="delete the files instead of listing them")
    ] = False,
) -> None:
    """List the step checkpoints that are not needed; delete them with --delete.

    Example: statetx prune results/demo/dc20/pertsets/seed0 --delete
    """
    from statetx.maintenance.prune import prune as work
    from statetx.maintenance.prune import text

    typer.echo(text(work(run_dir, keep.split(","), delete)))


@app.command()
def verify(
    places: Annotated[
        list[Path] | None, typer.Argument(help="directories with results; default: results")
    ] = None,
) -> None:
    """Check every file of results or models against its record; exit 1 if a file is damaged.

    Example: statetx verify results
    """
    from statetx.maintenance.verify import verify_all

    checked = verify_all(places or [Path("results")])
    for error in checked.damaged:
        typer.echo(f"damaged: {error}\n")
    typer.echo(
        f"{checked.n_files:,} files, {checked.n_bytes / 1e9:.2f} GB: "
        + (f"{len(checked.damaged)} damaged" if checked.damaged else "all as they were written")
    )
    if checked.damaged:
        raise typer.Exit(1)


@app.command()
def show(
    verdict: Annotated[Path, typer.Argument(help="verdict.json")],
    page: Annotated[
        Path | None, typer.Option(help="HTML page whose path is printed below the table")
    ] = None,
) -> None:
    """Print the table of a verdict.

    Example: statetx show results/demo/main/verdict.json
    """
    from statetx.reporting.terminal.verdict_table import print_verdict

    print_verdict(verdict)
    if page is not None:
        typer.echo(f"page: {page.resolve()}")


@app.command()
def selftest(
    every: Annotated[bool, typer.Option("--all", help="also list the checks that pass")] = False,
) -> None:
    """Check every metric on synthetic cells with known scores; exit 1 if a metric is wrong.

    Example: statetx selftest
    """
    from statetx.evaluation.selftest import selftest as work
    from statetx.reporting.terminal.selftest_table import print_checks

    logging.getLogger("statetx").setLevel(logging.WARNING)
    checks = work()
    print_checks(checks, sys.stdout, every)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


for _command in (*cli_scores.COMMANDS, *cli_stages.COMMANDS):
    app.command()(_command)


def _dashed(argument: str) -> str:
    """Return ``--pert-col`` for ``--pert_col``: scripts for other tools use underscores."""
    if not argument.startswith("--"):
        return argument
    name, sign, value = argument.partition("=")
    return name.replace("_", "-") + sign + value


def main() -> None:
    """Run a command; print errors of statetx without a traceback."""
    always_printable()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("statetx").setLevel(logging.INFO)
    with door():
        app([_dashed(argument) for argument in sys.argv[1:]])


if __name__ == "__main__":
    main()
