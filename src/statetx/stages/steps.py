"""All steps of a configuration: the inputs, outputs, settings and record of each.

Snakemake's own metadata is lost by a kill, by ``--unlock`` or by copying the results. Snakemake
then treats all existing files as fresh. The records next to the outputs are not lost in these
cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statetx.config import Config
from statetx.config.root import Run
from statetx.core import records
from statetx.data.store.layout import file_name
from statetx.data.store.plan import read_plan
from statetx.stages import fingerprints, parameters, paths
from statetx.stages.packed_sources import cell_lines
from statetx.stages.source_files import source_files

REFERENCES = ("floor", "mean_response", "interpolated_duplicate", "ceiling")


@dataclass(frozen=True, kw_only=True)
class Step:
    """Execution of one stage for certain inputs.

    Attributes
    ----------
    stage
        Name of the stage.
    kind
        Kind of model, for stages whose code depends on it.
    code
        Fingerprint of the code that should run.
    settings
        Settings that the step reads from the configuration.
    inputs
        Files and directories that the step reads, made by other steps.
    outputs
        Files, or the directory, that the step writes.
    record
        File with the record of the outputs.
    """

    stage: str
    kind: str | None = None
    code: str
    settings: dict[str, Any]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    record: Path

    @classmethod
    def from_job(cls, stage: str, job: Any) -> Step:
        """Return the step that a Snakemake job runs.

        Parameters
        ----------
        stage
            Name of the stage.
        job
            The `snakemake` object of the script. If it has an input ``origin``, only ``origin``
            counts as input of the step.
        """
        params = dict(job.params.items())
        record = job.output.get("record")
        outputs = tuple(Path(path) for path in job.output if path != record)
        return cls(
            stage=stage,
            kind=params.pop("kind", None),
            code=params.pop("code"),
            settings=params,
            inputs=tuple(Path(path) for path in _listed(job.input.get("origin", job.input))),
            outputs=outputs,
            record=Path(record) if record else outputs[0] / records.NAME,
        )


def _listed(paths: Any) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)


def all_steps(
    cfg: Config, lines_of: Callable[[Config, str], list[str]] = cell_lines
) -> Iterator[Step]:
    """Yield every step of a configuration, in the order of the pipeline.

    Steps of test lines and of experiments are left out while their plans do not exist. The training
    of frozen models is left out too.

    Parameters
    ----------
    cfg
        The configuration.
    lines_of
        Function that returns the cell lines of a data set, by default from its source files.
    """
    for dataset in cfg.datasets:
        if cfg.datasets[dataset].files == "simulate":
            yield simulate_step(cfg, dataset)
        yield from pack_steps(cfg, dataset, lines_of(cfg, dataset))
    for split in cfg.split_names():
        yield split_step(cfg, split)
    runs = cfg.runs()
    for dataset, split in dict.fromkeys((run.dataset, run.split) for run in runs):
        if (genes := genes_step(cfg, dataset, split)) is not None:
            yield genes
        for line in _test_lines(dataset, split):
            yield reference_step(cfg, dataset, split, line)
    for run in runs:
        if not cfg.models[run.model].frozen:
            yield train_step(cfg, run)
        yield prune_step(cfg, run)
        for checkpoint in parameters.checkpoints(cfg, run.model):
            for line in _test_lines(run.dataset, run.split):
                yield predict_step(cfg, run, checkpoint, line)
                yield evaluate_step(cfg, run, checkpoint, line)
    for experiment in cfg.experiments:
        if all(_plan(run.dataset, run.split).exists() for run in cfg.runs(experiment)):
            yield verdict_step(cfg, experiment)
            yield report_step(cfg, experiment)


# ---------------------------------------------------------------------------------------------
# the steps, in the order of the pipeline


def simulate_step(cfg: Config, dataset: str) -> Step:
    """Return the step that simulates a data set."""
    cells = tuple(map(Path, source_files(cfg, dataset)))
    home, params = cells[0].parent, parameters.simulate_params(cfg, dataset)
    return _step("simulate", params, (), (*cells, home / "truth.parquet"), home / records.NAME)


def pack_steps(cfg: Config, dataset: str, lines: list[str]) -> Iterator[Step]:
    """Yield the steps that pack a data set: one per cell line, and one for the shared files."""
    home, params = paths.pack_dir(dataset), parameters.pack_params(cfg, dataset)
    inputs: tuple[Path, ...] = (home / "content.json",)
    if cfg.datasets[dataset].files == "simulate":
        inputs = tuple(map(Path, source_files(cfg, dataset)))
    for line in lines:
        cells = home / f"{file_name(line)}.h5ad"
        yield _step("pack", params, inputs, (cells,), _beside(cells))
    names = ("manifest.json", "conditions.parquet", "sources.json")
    bound = tuple(home / name for name in names)
    yield _step("pack", params, inputs, bound, _beside(bound[0]))


def split_step(cfg: Config, split: str) -> Step:
    """Return the step that makes the plan of a split."""
    section, _ = cfg.split(split)
    home = paths.split_dir(section.dataset, split)
    outputs = tuple(home / name for name in ("plan.parquet", "split.toml", "lint.json"))
    inputs = _bound(section.dataset)
    return _step("split", parameters.split_params(cfg, split), inputs, outputs, _beside(outputs[0]))


def genes_step(cfg: Config, dataset: str, split: str) -> Step | None:
    """Return the step that selects genes on a split; None if its models use all genes."""
    path = paths.genes_file(cfg, dataset, split)
    if path is None:
        return None
    inputs = (_plan(dataset, split), *_store(cfg, dataset))
    return _step("genes", {"code": fingerprints.code("genes")}, inputs, (path,), _beside(path))


def train_step(cfg: Config, run: Run) -> Step:
    """Return the step that trains one run."""
    model = paths.model_dir(*run)
    inputs = (
        _plan(run.dataset, run.split),
        *_genes(cfg, run.dataset, run.split),
        *_store(cfg, run.dataset),
    )
    params = {
        **parameters.train_params(cfg, run.model),
        "match": parameters.match_params(cfg, run.dataset),
    }
    kind = cfg.models[run.model].kind
    return _step("train", params, inputs, (model,), model / records.NAME, kind)


def predict_step(cfg: Config, run: Run, checkpoint: str, line: str) -> Step:
    """Return the step that predicts the held-out cells of one line."""
    cells = paths.predictions_file(run, checkpoint, line)
    inputs = (paths.model_dir(*run), *_line_inputs(cfg, run.dataset, run.split, line))
    params = {
        **parameters.predict_params(cfg, run.model),
        "match": parameters.match_params(cfg, run.dataset),
    }
    kind = cfg.models[run.model].kind
    return _step("predict", params, inputs, (cells,), _beside(cells), kind)


def reference_step(cfg: Config, dataset: str, split: str, line: str) -> Step:
    """Return the step that makes the reference of one test line."""
    outputs = _reference(dataset, split, line)
    inputs = (_plan(dataset, split), *_genes(cfg, dataset, split), *_store(cfg, dataset))
    record = outputs[0].parent / records.NAME
    return _step("reference", parameters.reference_params(cfg), inputs, outputs, record)


def evaluate_step(cfg: Config, run: Run, checkpoint: str, line: str) -> Step:
    """Return the step that scores one line of one run."""
    scores = paths.scores_dir(run, checkpoint, line)
    names = ("results.csv", "agg_results.csv", "scores.csv", "de.parquet")
    inputs = (
        paths.predictions_file(run, checkpoint, line),
        *_reference(run.dataset, run.split, line),
        *_line_inputs(cfg, run.dataset, run.split, line),
    )
    outputs = tuple(scores / name for name in names)
    return _step(
        "evaluate", parameters.evaluate_params(cfg), inputs, outputs, scores / records.NAME
    )


def prune_step(cfg: Config, run: Run) -> Step:
    """Return the step that lists or deletes the checkpoints that are not needed."""
    out = paths.made(paths.PRUNE, **run._asdict())
    inputs = (paths.model_dir(*run),)
    return _step("prune", parameters.prune_params(cfg), inputs, (out,), _beside(out))


def verdict_step(cfg: Config, experiment: str) -> Step:
    """Return the step that makes the verdict of one experiment."""
    dataset, runs = cfg.experiment_dataset(experiment), cfg.runs(experiment)
    home = paths.verdict_file(dataset, experiment).parent
    inputs = []
    for run in runs:
        checkpoint = parameters.checkpoints(cfg, run.model)[0]
        inputs += [
            paths.scores_dir(run, checkpoint, line) / "scores.csv"
            for line in _test_lines(run.dataset, run.split)
        ]
    for split in dict.fromkeys(run.split for run in runs):
        for line in _test_lines(dataset, split):
            inputs += [path for path in _reference(dataset, split, line) if path.suffix == ".csv"]
    params = {
        **parameters.verdict_params(cfg, experiment),
        "checkpoint": cfg.evaluation.checkpoints[0],
    }
    outputs = (home / "leaderboard.csv", home / "verdict.json")
    return _step("verdict", params, tuple(inputs), outputs, _beside(outputs[1]))


def report_step(cfg: Config, experiment: str) -> Step:
    """Return the step that writes the page of one experiment."""
    dataset, runs = cfg.experiment_dataset(experiment), cfg.runs(experiment)
    page = paths.page_file(experiment)
    inputs = (
        paths.verdict_file(dataset, experiment),
        *_bound(dataset),
        *(_plan(dataset, split) for split in dict.fromkeys(run.split for run in runs)),
        *(paths.model_dir(*run) for run in runs),
    )
    params = {
        "title": cfg.report.title or experiment,
        "runs": parameters.verdict_params(cfg, experiment)["runs"],
        "code": fingerprints.code("report"),
    }
    return _step("report", params, inputs, (page,), _beside(page))


def _step(
    stage: str,
    params: dict[str, Any],
    inputs: tuple[Path, ...],
    outputs: tuple[Path, ...],
    record: Path,
    kind: str | None = None,
) -> Step:
    settings = {key: value for key, value in params.items() if key != "code"}
    return Step(
        stage=stage,
        kind=kind,
        code=params["code"],
        settings=settings,
        inputs=inputs,
        outputs=outputs,
        record=record,
    )


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{records.NAME}")


def _reference(dataset: str, split: str, line: str) -> tuple[Path, ...]:
    home = paths.reference_dir(dataset, split, line)
    names = ["real_de.parquet", "pseudobulk.parquet", "bandwidths.json"]
    return tuple(home / name for name in [*names, *(f"{name}.csv" for name in REFERENCES)])


def _plan(dataset: str, split: str) -> Path:
    return paths.plan_file(dataset, split)


def _test_lines(dataset: str, split: str) -> list[str]:
    path = _plan(dataset, split)
    return read_plan(path).lines("test") if path.exists() else []


def _genes(cfg: Config, dataset: str, split: str) -> tuple[Path, ...]:
    path = paths.genes_file(cfg, dataset, split)
    return () if path is None else (path,)


def _bound(dataset: str) -> tuple[Path, ...]:
    home = paths.pack_dir(dataset)
    return home / "manifest.json", home / "conditions.parquet"


def _store(cfg: Config, dataset: str) -> tuple[Path, ...]:
    home = paths.pack_dir(dataset)
    lines = (home / f"{file_name(line)}.h5ad" for line in packed_lines(cfg, dataset))
    return (*_bound(dataset), *lines)


def packed_lines(cfg: Config, dataset: str) -> list[str]:
    """Return the cell lines of the packed store, or of the source files if it does not exist.

    The source files may be moved away after packing.

    Parameters
    ----------
    cfg
        The configuration.
    dataset
        Name of the data set.
    """
    try:
        manifest = json.loads((paths.pack_dir(dataset) / "manifest.json").read_text("utf-8"))
        return [str(line["name"]) for line in manifest["lines"]]
    except (OSError, ValueError, KeyError, TypeError):
        return cell_lines(cfg, dataset)


def _line_inputs(cfg: Config, dataset: str, split: str, line: str) -> tuple[Path, ...]:
    """Return the files of plan, genes and store that a stage for one test line reads."""
    cells = paths.pack_dir(dataset) / f"{file_name(line)}.h5ad"
    return (_plan(dataset, split), *_genes(cfg, dataset, split), *_bound(dataset), cells)
