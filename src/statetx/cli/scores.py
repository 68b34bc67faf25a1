"""Commands that score any predictions: cells, or tables of scores against a baseline."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Force = Annotated[bool, typer.Option("--force", help="replace an earlier output of this command")]


class Scale(enum.StrEnum):
    """Values that a matrix contains."""

    log1p = "log1p"
    counts = "counts"


def labels_option(value: str) -> str:
    """Return a value of ``--labels`` unchanged if it is valid.

    Parameters
    ----------
    value
        The value.

    Raises
    ------
    typer.BadParameter
        The value is not valid.
    """
    from statetx.config.datasets import labels_setting

    try:
        return labels_setting(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Labels = Annotated[
    str,
    typer.Option(
        callback=labels_option,
        help="how labels are read: auto, drug_dose, plain, {drug}_{dose}{unit}",
    ),
]


def evaluate(
    *,
    pred: Annotated[
        Path | None,
        typer.Option(help="h5ad with predicted cells; optional with --ceiling"),
    ] = None,
    real: Annotated[Path, typer.Option(help="h5ad with real cells and controls")],
    out: Annotated[Path, typer.Option(help="directory for the tables")],
    pert_col: Annotated[str, typer.Option(help="obs column with the perturbation")],
    control_pert: Annotated[str, typer.Option(help="control label")],
    celltype_col: Annotated[str | None, typer.Option(help="obs column with the cell line")] = None,
    embed_key: Annotated[
        str | None,
        typer.Option(help="obsm matrix for cell-eval's discrimination l2 and cosine"),
    ] = None,
    labels: Labels = "auto",
    profile: Annotated[str, typer.Option(help="full, minimal, de, anndata, vcc or pds")] = "full",
    scale: Annotated[Scale, typer.Option(help="values in both files")] = Scale.log1p,
    skip_metrics: Annotated[
        str, typer.Option(help="metrics of cell-eval to leave out, such as pearson_edistance,mse")
    ] = "",
    scores: Annotated[
        bool, typer.Option(help="write scores.csv of statetx, in addition to cell-eval's tables")
    ] = True,
    real_de: Annotated[
        Path | None,
        typer.Option(
            help="CSV or parquet with differential expression of the real cells, which is then not "
            "computed (cell-eval's real_de.csv; for several cell lines with column --celltype-col)"
        ),
    ] = None,
    pred_de: Annotated[
        Path | None, typer.Option(help="differential expression of the predicted cells, likewise")
    ] = None,
    common_only: Annotated[
        bool,
        typer.Option(
            "--common-only",
            help="score only cell lines and perturbations that both files have; name the others",
        ),
    ] = False,
    clip_negative: Annotated[
        bool,
        typer.Option(
            "--clip-negative",
            help="set negative predicted values to 0, as some models predict small negative values",
        ),
    ] = False,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling",
            help="write cell-eval's ceiling_results.csv, which scores one half of the real cells "
            "against the other",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Score predicted cells of any model: tables of cell-eval, and scores of statetx.

    Example: statetx evaluate --pred p.h5ad --real r.h5ad --pert-col drug_dose --control-pert DMSO --out scores
    """
    from statetx.evaluation.standalone.ceiling import ceiling_files
    from statetx.evaluation.standalone.evaluate_files import evaluate_files

    if pred is None and not ceiling:
        raise typer.BadParameter("give --pred, or --ceiling for real cells only")
    if pred is None and (real_de or pred_de):
        raise typer.BadParameter(
            "--real-de and --pred-de need --pred: --ceiling tests halves of the real cells"
        )
    skip = [name.strip() for name in skip_metrics.split(",") if name.strip()]
    cells = (pert_col, control_pert, celltype_col, embed_key)
    written = []
    if pred is not None:
        scored = evaluate_files(
            pred,
            real,
            *cells,
            out=out,
            profile=profile,
            scale=scale.value,
            labels=labels,
            skip=skip,
            with_scores=scores,
            real_de=real_de,
            pred_de=pred_de,
            common_only=common_only,
            clip_negative=clip_negative,
            replace=force,
        )
        written.append(f"{len(scored)} sets of tables")
    if ceiling:
        halved = ceiling_files(
            real,
            *cells,
            out=out,
            profile=profile,
            scale=scale.value,
            labels=labels,
            skip=skip,
            replace=force,
        )
        written.append(f"{len(halved)} ceilings")
    typer.echo(f"{', '.join(written)}: {out}")


def score(
    user: Annotated[Path, typer.Option(help="agg_results.csv of the predictions")],
    baseline: Annotated[Path, typer.Option(help="agg_results.csv of a baseline on the same cells")],
    out: Annotated[Path, typer.Option(help="CSV to write: metric, from_baseline")],
    force: Force = False,
) -> None:
    """Score predictions against a baseline as cell-eval does: 0 = not better, 1 = perfect.

    Example: statetx score --user model/agg_results.csv --baseline mean/agg_results.csv --out score.csv
    """
    from statetx.core.writes import check_new
    from statetx.evaluation.cell_eval.baseline_score import score_against
    from statetx.evaluation.standalone.earlier_results import is_score

    check_new(out, force, is_score)
    table = score_against(user, baseline, out)
    typer.echo(f"avg_score {table['from_baseline'].iloc[-1]:.4f}: {out}")


COMMANDS: tuple[Callable[..., Any], ...] = (evaluate, score)
"""Commands in the order of the help."""
