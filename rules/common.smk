# Included before all other rules: the checked configuration, the table of runs, and the functions
# that return the inputs and parameters of rules.
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import contains_wildcard
from snakemake_interface_executor_plugins.settings import ExecMode

from statetx.stages import (
    fingerprints,
    jobs,
    packed_sources,
    parameters,
    paths,
    staleness,
    startup,
)
from statetx.config import BASELINES, load
from statetx.data.store.plan import read_plan
from statetx.data.store.layout import check_case, file_name
from statetx.core.errors import ConfigError, StatetxError, always_printable
from statetx.stages.source_files import source_files


def force_stale():
    """Make Snakemake remake stale outputs that its own metadata would call fresh.

    Only the main process does so, not its jobs.
    """
    if workflow.exec_mode != ExecMode.DEFAULT:
        return
    jobs.ask_for_codes(CFG)
    outdated = {str(path) for path in staleness.stale(CFG)}
    outdated |= {
        f"{paths.pack_dir(name)}/content.json"
        for name in CFG.datasets
        if packed_sources.sources_changed(CFG, name)
    }
    prepare = workflow._prepare_dag

    def prepare_with_stale(*arguments, **options):
        prepared = prepare(*arguments, **options)
        workflow.dag.forcefiles |= outdated
        return prepared

    workflow._prepare_dag = prepare_with_stale


always_printable()
try:
    paths.check_writable(paths.RESULTS, "logs", ".state")
    CFG = load(dict(config))
    for names in (CFG.datasets, [*CFG.split_names(), *CFG.experiments], CFG.models):
        check_case(names, Path(paths.RESULTS))
    LINES = {name: packed_sources.cell_lines(CFG, name) for name in CFG.datasets}
    SOURCES = {name: source_files(CFG, name) for name in CFG.datasets}
    for name, files in SOURCES.items():
        for path in filter(contains_wildcard, files):
            raise ConfigError(
                f"Snakemake reads the braces in the path {path!r} as wildcards",
                where=f"datasets.{name}.files",
                fix="rename the file or directory, or make a link to it with another name",
            )
    PACK = {name: parameters.pack_params(CFG, name) for name in CFG.datasets}
    SPLIT = {name: parameters.split_params(CFG, name) for name in CFG.split_names()}
    FEATURES = [parameters.features_digest(CFG, name) for name in CFG.models]
    startup.begin(CFG.datasets, main=workflow.is_main_process, dry=workflow.dryrun)
    for sentence in staleness.check_frozen(CFG) if workflow.is_main_process else []:
        print(f"note: {sentence}", file=sys.stderr)
    force_stale()
except StatetxError as error:
    raise WorkflowError(str(error)) from None

RUNS = CFG.runs()
CODES = {
    stage: fingerprints.code(stage)
    for stage in fingerprints.CODE
    if stage not in ("train", "predict")
}


def one_of(names):
    return "|".join(sorted(re.escape(name) for name in names))


wildcard_constraints:
    dataset=one_of(CFG.datasets),
    split=one_of(CFG.split_names()),
    model=one_of(CFG.models),
    experiment=one_of(CFG.experiments),
    seed=r"\d+",
    checkpoint=r"best|last|step=\d+",
    cell_line=r"[A-Za-z0-9_.+%-]+",


def origin_of(name):
    """Return the origin of a store: the simulated cells, or ``content.json`` of rule compare.

    Source files are not inputs, because a change of their path or time must not pack them again.
    """
    if CFG.datasets[name].files == "simulate":
        return SOURCES[name]
    return (
        lambda wildcards: getattr(checkpoints, f"compare_{name}").get().output.content
    )


def part_dirs(name):
    """Return the directories of parts, one per source file, with its cells by cell line."""
    return [
        f"{paths.pack_dir(name)}/parts/{part:04d}" for part in range(len(SOURCES[name]))
    ]


def store_files(wildcards):
    """Return every file of a packed store."""
    home = paths.made(paths.PACK, dataset=wildcards.dataset)
    lines = [f"{home}/{file_name(line)}.h5ad" for line in LINES[wildcards.dataset]]
    return [f"{home}/manifest.json", f"{home}/conditions.parquet", *lines]


def line_files(wildcards):
    """Return the files of a packed store that a stage for one cell line reads."""
    home = paths.made(paths.PACK, dataset=wildcards.dataset)
    return [
        f"{home}/manifest.json",
        f"{home}/conditions.parquet",
        f"{home}/{wildcards.cell_line}.h5ad",
    ]


def plan_of(wildcards):
    """Return the plan of a split; as a checkpoint output, an unchanged plan reruns nothing."""
    return checkpoints.split.get(
        dataset=wildcards.dataset, split=wildcards.split
    ).output.plan


def reference_files(wildcards):
    """Return the reference files of a test line, without the record."""
    return [
        path.format(**wildcards)
        for path in map(str, rules.reference.output)
        if not path.endswith("record.json")
    ]


def genes_of(wildcards):
    """Return the file of genes selected on a split; empty if its models use all genes."""
    path = paths.genes_file(CFG, wildcards.dataset, wildcards.split)
    return [] if path is None else str(path)


def test_lines(dataset, split):
    """Return the test lines of a split, as they are written in paths."""
    plan = checkpoints.split.get(dataset=dataset, split=split).output.plan
    return [file_name(line) for line in read_plan(plan).lines("test")]


def per_test_line(pattern, runs, wanted=None):
    """Return `pattern` filled in for every run, test line and evaluated checkpoint.

    With `wanted`, only the first `wanted` checkpoints count.
    """
    return [
        pattern.format(**run._asdict(), checkpoint=checkpoint, cell_line=line)
        for run in runs
        for checkpoint in parameters.checkpoints(CFG, run.model)[:wanted]
        for line in test_lines(run.dataset, run.split)
    ]


def needs_gpu(wildcards):
    """Return 1 for networks, which train and predict on a GPU if available, 0 for baselines."""
    return int(CFG.models[wildcards.model].kind not in BASELINES)


def train_gpus(wildcards):
    """Return the number of GPUs that share the batches of a training."""
    return needs_gpu(wildcards) and CFG.models[wildcards.model].devices


def kind_of(wildcards):
    """Return the kind of a model."""
    return CFG.models[wildcards.model].kind


def train_params(wildcards):
    """Return the parameters of stage `train`."""
    return parameters.train_params(CFG, wildcards.model)


def match_of(wildcards):
    """Return for each level of control matching whether the batch must agree."""
    return parameters.match_params(CFG, wildcards.dataset)


def predict_params(wildcards):
    """Return the parameters of stage `predict`."""
    return parameters.predict_params(CFG, wildcards.model)


def verdict_scores(wildcards):
    """Return the scores of every run of an experiment, for the checkpoint of the verdict."""
    return per_test_line(
        f"{paths.SCORES}/scores.csv",
        CFG.runs(wildcards.experiment),
        wanted=1,
    )


def verdict_references(wildcards):
    """Return the reference scores of every test line of an experiment, from floor to ceiling."""
    splits = dict.fromkeys(
        (run.dataset, run.split) for run in CFG.runs(wildcards.experiment)
    )
    return [
        str(paths.reference_dir(dataset, split, line) / f"{part}.csv")
        for dataset, split in splits
        for line in test_lines(dataset, split)
        for part in ("floor", "mean_response", "interpolated_duplicate", "ceiling")
    ]


def home_of(wildcards):
    """Return the data set of an experiment."""
    return CFG.experiment_dataset(wildcards.experiment)


def report_plans(wildcards):
    """Return the plans of an experiment."""
    return [
        str(paths.plan_file(home_of(wildcards), split))
        for split in dict.fromkeys(run.split for run in CFG.runs(wildcards.experiment))
    ]
