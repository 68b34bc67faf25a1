"""Parameters of every stage: exactly the settings that it reads, and the fingerprint of its code.

The workflow uses them when it is parsed, and the commands of the stages use them too. This module
does not depend on Snakemake.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from statetx.config import BASELINES, Config
from statetx.core import digests, documents
from statetx.core.errors import ConfigError
from statetx.core.fingerprint import code_fingerprint
from statetx.shared import labels
from statetx.stages.fingerprints import code
from statetx.stages.source_files import rooted, source_files


def simulate_params(cfg: Config, dataset: str) -> dict[str, Any]:
    """Return the parameters of stage `simulate`."""
    return {"settings": cfg.datasets[dataset].simulate.changed(), "code": code("simulate")}


def pack_params(cfg: Config, dataset: str) -> dict[str, Any]:
    """Return the parameters of stage `pack`; the source content counts by ``content.json``."""
    from statetx.data.pack.survey import packed_settings

    return {"settings": packed_settings(cfg.datasets[dataset]), "code": code("pack")}


def split_params(cfg: Config, split: str) -> dict[str, Any]:
    """Return the parameters of stage `split`.

    TOML files and tables count by their parsed content, not by their path or layout.

    Parameters
    ----------
    cfg
        The configuration.
    split
        Name of the split, with its fold.

    Raises
    ------
    ConfigError
        A TOML file or a table cannot be read.
    """
    from statetx.splits.toml import in_order

    section, fold = cfg.split(split)
    toml = read_toml(rooted(cfg, section.toml)) if hasattr(section, "toml") else None
    unread = ("dataset", "toml", "drug_table", "line_table")
    settings = {k: v for k, v in section.changed().items() if k not in unread}
    fingerprint = code("split")
    if settings.get("stratify", {}).get("drugs") == "effect":
        effects = code_fingerprint(["statetx.splits.compounds.effects"])
        fingerprint = digests.digest([fingerprint, effects])
    if toml is not None:
        toml.get("statetx", {}).pop("made_from", None)
    return {
        "settings": settings,
        "fold": fold,
        "toml": None if toml is None else in_order(toml),
        "known": split_facts(cfg, split),
        "code": fingerprint,
    }


def split_facts(cfg: Config, split: str) -> dict[str, Any]:
    """Return the facts about drugs and lines that tables or obs of the source files contain.

    Parameters
    ----------
    cfg
        The configuration.
    split
        Name of the split, with its fold.
    """
    from statetx.splits.compounds.drug_tables import facts_of

    section, _ = cfg.split(split)
    tables = {}
    for key in ("drug_table", "line_table"):
        table = getattr(section, key, None)
        if table is not None:
            tables[key] = table.model_copy(update={"path": rooted(cfg, table.path)})
    section = section.model_copy(update=tables)
    data = cfg.datasets[section.dataset]
    strata = getattr(section, "stratify", None)
    reads = data.files != "simulate" and strata is not None and strata.changed()
    files = source_files(cfg, section.dataset) if reads else []
    controls = labels.controls(data.control_pert)
    return facts_of(section, files, data.pert_col, data.cell_type_key, controls, data.labels)


def read_toml(path: str) -> dict[str, Any]:
    """Read the TOML file of a split.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ConfigError
        The file cannot be read or parsed.
    """
    fix = "correct the path or the TOML; docs/how-to.md shows a complete file"
    return documents.read_toml(path, documents.Wanted("the split", ConfigError, fix))


def train_params(cfg: Config, model: str) -> dict[str, Any]:
    """Return the parameters of stage `train`.

    Left out are the evaluated checkpoints, the place of packed cells, the number of devices and
    ``frozen``, because a change of these must not retrain the model. Selected genes are an input
    file. Features of perturbations count by the digest of their file.

    Parameters
    ----------
    cfg
        The configuration.
    model
        Name of the model.

    Raises
    ------
    ConfigError
        The file of features cannot be read.
    """
    section = cfg.models[model]
    settings = {
        k: v
        for k, v in section.changed().items()
        if k not in ("resident", "devices", "genes", "frozen")
    }
    if settings.pop("perturbation_features_file", None) is not None:
        settings["perturbation_features"] = features_digest(cfg, model)
    return {"settings": settings, "code": code("train", section.kind)}


def features_digest(cfg: Config, model: str) -> str | None:
    """Return the digest of the table of perturbation features of a model, or None without a table.

    Parameters
    ----------
    cfg
        The configuration.
    model
        Name of the model.

    Raises
    ------
    ConfigError
        The file cannot be read.
    """
    path = getattr(cfg.model(model), "perturbation_features_file", None)
    if path is None:
        return None
    try:
        return digests.file_digest(path)
    except OSError as error:
        raise ConfigError(
            f"cannot read the features of perturbations: {error.strerror}",
            where=f"models.{model}.perturbation_features_file: {path}",
            fix="correct the path, or give --config data_root=DIRECTORY",
        ) from error


def match_params(cfg: Config, dataset: str) -> list[bool]:
    """Return for each level of control matching whether the batch must agree too."""
    return cfg.datasets[dataset].match_by_batch()


def checkpoints(cfg: Config, model: str) -> list[str]:
    """Return the checkpoints of a model that are evaluated; baselines have `best` only."""
    return ["best"] if cfg.models[model].kind in BASELINES else list(cfg.evaluation.checkpoints)


def predict_params(cfg: Config, model: str) -> dict[str, Any]:
    """Return the parameters of stage `predict`."""
    settings = _pick(cfg, "max_cells", "seed")
    return {"settings": settings, "code": code("predict", cfg.models[model].kind)}


def reference_params(cfg: Config) -> dict[str, Any]:
    """Return the parameters of stage `reference`."""
    return {"settings": _pick(cfg, "max_cells", "seed"), "code": code("reference")}


def evaluate_params(cfg: Config) -> dict[str, Any]:
    """Return the parameters of stage `evaluate`."""
    return {"settings": _pick(cfg, "max_cells", "seed", "profile"), "code": code("evaluate")}


def verdict_params(cfg: Config, experiment: str) -> dict[str, Any]:
    """Return the parameters of stage `verdict`."""
    runs = [
        [run.split, run.model, cfg.models[run.model].kind, run.seed] for run in cfg.runs(experiment)
    ]
    return {"settings": _pick(cfg, "seed", "n_bootstrap"), "runs": runs, "code": code("verdict")}


def prune_params(cfg: Config) -> dict[str, Any]:
    """Return the parameters of stage `prune`; checkpoints that evaluation needs are kept too."""
    keep = sorted({*cfg.prune.keep, *cfg.evaluation.checkpoints})
    return {"keep": keep, "delete": cfg.prune.mode == "delete", "code": code("prune")}


def _pick(cfg: Config, *keys: str) -> dict[str, Any]:
    changed = cfg.evaluation.changed()
    return {key: changed[key] for key in keys if key in changed}


def train_made_from(
    store: Path, plan: Path, settings: Any, code: str, genes: Path | None, match: Any
) -> dict[str, Any]:
    """Return everything that a trained model depends on.

    Parameters
    ----------
    store
        Directory of the packed store.
    plan
        File of the plan; its conditions count.
    settings, code
        As in `train_params`.
    genes
        File of selected genes, or None.
    match
        As in `match_params`.
    """
    from statetx.data.store.plan import read_plan

    return {
        "genes": None if genes is None else digests.file_digest(genes),
        "match_by_batch": match,
        "settings": settings,
        "code": code,
        "plan": read_plan(plan).digest,
        "store": digests.file_digest(store / "manifest.json"),
    }
