# Used by all files beside it. The checked configuration, the table of runs, inputs that are known
# only when a plan exists.
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
    """Have Snakemake make anew what its own metadata would call fresh; jobs leave it to their parent."""
    if workflow.exec_mode != ExecMode.DEFAULT:
        return
    jobs.ask_for_codes(CFG)
    found = {str(path) for path in staleness.stale(CFG)}
    found |= {
        f"{paths.pack_dir(name)}/content.json"
        for name in CFG.datasets
        if packed_sources.sources_changed(CFG, name)
    }
    prepare = workflow._prepare_dag

    def prepare_with_stale(*arguments, **options):
        prepared = prepare(*arguments, **options)
        workflow.dag.forcefiles |= found
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
                f"Snakemake takes the braces in the path of {path!r} for wildcards",
                where=f"datasets.{name}.files",
                fix="rename the file or directory, or make a link to it under another name",
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
    """Simulated cells, or what `compare` says of source files.

    Source files are no inputs: where they lie, and when they were written, must repack nothing.
    """
    if CFG.datasets[name].files == "simulate":
        return SOURCES[name]
    return (
        lambda wildcards: getattr(checkpoints, f"compare_{name}").get().output.content
    )


def part_dirs(name):
    """Where the source files of a data set lie, dealt out by cell line."""
    return [
        f"{paths.pack_dir(name)}/parts/{part:04d}" for part in range(len(SOURCES[name]))
    ]


def store_files(wildcards):
    """Every file of a packed store."""
    home = paths.made(paths.PACK, dataset=wildcards.dataset)
    lines = [f"{home}/{file_name(line)}.h5ad" for line in LINES[wildcards.dataset]]
    return [f"{home}/manifest.json", f"{home}/conditions.parquet", *lines]


def line_files(wildcards):
    """The files of a packed store that a stage for one cell line reads."""
    home = paths.made(paths.PACK, dataset=wildcards.dataset)
    return [
        f"{home}/manifest.json",
        f"{home}/conditions.parquet",
        f"{home}/{wildcards.cell_line}.h5ad",
    ]


def plan_of(wildcards):
    """The plan of a split. Asking the checkpoint stops the chain where a plan did not change."""
    return checkpoints.split.get(
        dataset=wildcards.dataset, split=wildcards.split
    ).output.plan


def reference_files(wildcards):
    """The reference of a test line, without its record."""
    return [
        path.format(**wildcards)
        for path in map(str, rules.reference.output)
        if not path.endswith("record.json")
    ]


def genes_of(wildcards):
    """The genes chosen on a split, if any model on it asks for them."""
    path = paths.genes_file(CFG, wildcards.dataset, wildcards.split)
    return [] if path is None else str(path)


def test_lines(dataset, split):
    """The cell lines, as they stand in paths, that a split tests."""
    plan = checkpoints.split.get(dataset=dataset, split=split).output.plan
    return [file_name(line) for line in read_plan(plan).lines("test")]


def per_test_line(pattern, runs, wanted=None):
    """`pattern` for every run, test line and evaluated checkpoint (or the first `wanted` of them)."""
    return [
        pattern.format(**run._asdict(), checkpoint=checkpoint, cell_line=line)
        for run in runs
        for checkpoint in parameters.checkpoints(CFG, run.model)[:wanted]
        for line in test_lines(run.dataset, run.split)
    ]


def needs_gpu(wildcards):
    """Networks train and predict on a GPU where there is one; baselines do not."""
    return int(CFG.models[wildcards.model].kind not in BASELINES)


def train_gpus(wildcards):
    """GPUs that share the batches of a training."""
    return needs_gpu(wildcards) and CFG.models[wildcards.model].devices


def kind_of(wildcards):
    """Kind of a model."""
    return CFG.models[wildcards.model].kind


def train_params(wildcards):
    """Settings of a training."""
    return parameters.train_params(CFG, wildcards.model)


def match_of(wildcards):
    """How cells find their controls."""
    return parameters.match_params(CFG, wildcards.dataset)


def predict_params(wildcards):
    """Settings of a prediction."""
    return parameters.predict_params(CFG, wildcards.model)


def verdict_scores(wildcards):
    """Scores of every run of an experiment, by the checkpoint that is judged."""
    return per_test_line(
        f"{paths.SCORES}/scores.csv",
        CFG.runs(wildcards.experiment),
        wanted=1,
    )


def verdict_references(wildcards):
    """Floors, ceilings and what lies between, of every test line of an experiment."""
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
    """The data set of an experiment."""
    return CFG.experiment_dataset(wildcards.experiment)


def report_plans(wildcards):
    """Plans of an experiment."""
    return [
        str(paths.plan_file(home_of(wildcards), split))
        for split in dict.fromkeys(run.split for run in CFG.runs(wildcards.experiment))
    ]
