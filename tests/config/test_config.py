import json
from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest
import yaml

from statetx.config import document, load
from statetx.config.root import Config
from statetx.core.errors import ConfigError
from statetx.stages import parameters

ROOT = Path(__file__).parents[2]
DEMO = yaml.safe_load((ROOT / "config/config.yaml").read_text())
FILES = sorted(
    path
    for pattern in ("*.yaml", "examples/*.yaml", "test/*.yaml")
    for path in (ROOT / "config").glob(pattern)
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_files_are_valid_by_models_and_by_schema(path):
    load(path)
    schema = json.loads((ROOT / document.SCHEMA).read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_schema_has_not_drifted():
    assert (ROOT / document.SCHEMA).read_text() == document.schema(), "run: make docs"


def test_reference_has_not_drifted():
    text = (ROOT / document.REFERENCE).read_text()
    assert text == document.with_reference(text), "run: make docs"


def test_every_key_is_explained():
    def keys(section):
        for name, field in section.model_fields.items():
            yield section.__name__, name, field.description

    sections = {section for _, section in document.TABLES}
    assert [key for section in sections for key in keys(section) if not key[2]] == []


def changed(path, value):
    config = deepcopy(DEMO)
    here = config
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["evalution"], {}, "unknown key 'evalution'; did you mean 'evaluation'?"),
        (
            ["models", "pertsets", "training", "max_step"],
            9,
            "unknown key 'models.pertsets.training.max_step'; did you mean 'max_steps'?",
        ),
        (
            ["splits", "dc20", "drug_fractio"],
            1,
            "unknown key 'splits.dc20.drug_fractio'; did you mean 'drug_fraction'?",
        ),
        (["splits", "dc20", "generator"], "dc_blok", "did you mean 'dc_block'?"),
        (["models", "no_change", "kind"], "nochange", "did you mean 'no_change'?"),
        (
            ["models", "no_change"],
            {"kind": "ridge", "n_component": 3},
            "unknown key 'models.no_change.n_component'; did you mean 'n_components'?",
        ),
        (["models", "no_change"], {"kind": "nearest_drug", "k": 0}, "models.no_change.k"),
        (["splits", "dc20", "dataset"], "dmo", "'dmo' does not exist; did you mean 'demo'?"),
        (["experiments", "main", "models"], ["pertset"], "did you mean 'pertsets'?"),
        (["experiments", "main", "splits"], ["dc2"], "did you mean 'dc20'?"),
        (["models", "pertsets", "embed_key"], None, "is not the expression_key"),
        (["models", "pertsets", "dropout"], 1.5, "models.pertsets.dropout"),
        (["models", "pertsets", "batches"], "encode", "models.pertsets.batches"),
        (["models", "pertsets", "batches"], "token", "set sets.within_batch to true"),
        (
            ["models", "pertsets", "perturbation_feature_file"],
            "f.csv",
            "did you mean 'perturbation_features_file'?",
        ),
        (["experiments", "dc20"], DEMO["experiments"]["main"], "both would share a directory"),
        (["splits", "pack"], DEMO["splits"]["dc20"], "this name cannot be used"),
        (["models", "a/b"], {"kind": "no_change"}, "this name cannot be used"),
        (["evaluation", "checkpoints"], ["besst"], "did you mean 'best'?"),
        (
            ["evaluation", "checkpoints"],
            ["step=123"],
            "'step=123' is never written by models.pertsets",
        ),
        (["evaluation", "checkpoints"], ["step=2000"], "its training has 1500 steps"),
        (["prune", "keep"], ["bets"], "'bets' is not a checkpoint"),
        (["experiments", "main", "seeds"], [-1], "experiments.main.seeds"),
    ],
)
def test_mistakes_are_named_with_path_and_nearest_key(path, value, message):
    with pytest.raises(ConfigError) as caught:
        load(changed(path, value))
    assert message in str(caught.value)
    assert "config/README.md" in str(caught.value)


def test_missing_key_is_named():
    config = deepcopy(DEMO)
    del config["datasets"]["demo"]["control_pert"]
    with pytest.raises(ConfigError, match=r"missing key 'datasets\.demo\.control_pert'"):
        load(config)


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "absent.yaml")
    assert "absent.yaml" in str(caught.value)
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load(tmp_path / "broken.yaml")


def test_folds_expand_where_an_experiment_names_the_generator():
    config = changed(["splits", "lo"], {"dataset": "demo", "generator": "line_folds", "k": 3})
    config["experiments"]["folds"] = {"splits": ["lo"], "models": ["no_change"], "seeds": [0, 1]}
    cfg = load(config)
    assert cfg.split_names() == ["dc20", "lo.0", "lo.1", "lo.2"]
    assert cfg.split("lo.2") == (cfg.splits["lo"], 2)
    runs = cfg.runs("folds")
    assert len(runs) == 6
    assert runs[0] == ("demo", "lo.0", "no_change", 0)


def test_changed_leaves_out_defaults_so_that_new_keys_rerun_nothing():
    cfg = load(DEMO)
    assert cfg.evaluation.changed() == {}
    assert cfg.models["no_change"].changed() == {"kind": "no_change"}
    assert "gradient_clip_val" not in cfg.models["pertsets"].changed()["training"]


def test_defaults_of_known_keys_do_not_change():
    """Stages see only what differs from a default: a default that moves would go unnoticed."""
    pinned = json.loads((Path(__file__).parent / "config_defaults.json").read_text())
    current = defaults()
    moved = {
        key: (pinned[key], current.get(key)) for key in pinned if current.get(key) != pinned[key]
    }
    assert moved == {}, "keep the default, or give the key a new name"
    assert set(current) <= set(pinned), "pin the default of a new key"


def defaults():
    return {
        f"{section.__name__}.{name}": json.loads(json.dumps(field.get_default(), default=str))
        for _, section in document.TABLES
        for name, field in section.model_fields.items()
        if not field.is_required() and section is not Config
    }


def counts_config():
    """The demo in X instead of a matrix chosen outside, with a second network."""
    config = deepcopy(DEMO)
    del config["datasets"]["demo"]["expression_key"]
    network = config["models"]["pertsets"]
    del network["embed_key"]
    network["genes"] = {"n_hvg": 100}
    config["models"]["other"] = deepcopy(network)
    config["experiments"]["main"]["models"].append("other")
    return config


def test_models_on_a_split_share_their_genes():
    config = counts_config()
    split = config["experiments"]["main"]["splits"][0]
    assert load(config).n_hvg(split) == 100
    config["models"]["other"]["genes"] = {"n_hvg": 200}
    with pytest.raises(ConfigError, match=r"work in different genes.*'other': 200"):
        load(config)
    del config["models"]["other"]["genes"]
    with pytest.raises(ConfigError, match="work in different genes"):
        load(config)
    assert load(DEMO).n_hvg(split) is None


def test_a_model_of_batches_needs_data_with_batches():
    config = changed(["models", "pertsets", "batches"], "encoder")
    assert load(config).models["pertsets"].batches == "encoder"
    config["datasets"]["demo"]["batch_col"] = None
    with pytest.raises(ConfigError, match="data set 'demo' has no batches: name their obs column"):
        load(config)


def test_features_make_perturbations_that_were_never_trained_predictable(tmp_path):
    """Lint asks for it: what is an error for ids is a note for features."""
    split = DEMO["experiments"]["main"]["splits"][0]
    assert load(DEMO).one_hot(split)
    config = changed(["models", "pertsets", "perturbation_features_file"], "{data_root}/f.csv")
    config["data_root"] = str(tmp_path)
    cfg = load(config)
    assert not cfg.one_hot(split)
    assert cfg.model("pertsets").perturbation_features_file == f"{tmp_path}/f.csv"
    # Beside a network of ids, such a split remains an error.
    config["models"]["ids"] = deepcopy(DEMO["models"]["pertsets"])
    config["experiments"]["main"]["models"] = ["pertsets", "ids"]
    assert load(config).one_hot(split)


def test_features_count_by_what_their_file_holds(tmp_path):
    def params(name, text):
        (tmp_path / name).write_text(text)
        config = changed(["models", "pertsets", "perturbation_features_file"], str(tmp_path / name))
        return parameters.train_params(load(config), "pertsets")

    assert params("a.csv", "label,x\nD,1\n") == params("b.csv", "label,x\nD,1\n")
    assert params("a.csv", "label,x\nD,1\n") != params("a.csv", "label,x\nD,2\n")
    config = changed(["models", "pertsets", "perturbation_features_file"], str(tmp_path / "no.csv"))
    with pytest.raises(ConfigError, match="cannot read the features") as caught:
        parameters.train_params(load(config), "pertsets")
    assert "models.pertsets.perturbation_features_file" in str(caught.value.where)


def test_genes_of_a_matrix_chosen_outside_cannot_be_chosen():
    with pytest.raises(ConfigError, match="genes are fixed; set its expression_key to null"):
        load(changed(["models", "pertsets", "genes"], {"n_hvg": 10}))


@pytest.mark.parametrize(
    ("match", "levels"),
    [
        (None, [True, False]),
        ([["cell_line", "batch"]], [True]),
        ([["batch", "cell_line"], ["cell_line"]], [True, False]),
        ([["cell_line"]], [False]),
    ],
)
def test_levels_of_control_matching(match, levels):
    assert load(changed(["datasets", "demo", "control_match"], match)).datasets["demo"].match_by_batch() == levels  # fmt: skip


@pytest.mark.parametrize(
    ("match", "message"),
    [
        (
            [["cell_line", "bach"]],
            "'bach' is neither cell_type_key nor batch_col; did you mean 'batch'",
        ),
        ([["batch"]], "would give controls of other cell lines"),
        ([], "list at least one combination"),
    ],
)
def test_control_matching_that_means_nothing(match, message):
    with pytest.raises(ConfigError, match=message):
        load(changed(["datasets", "demo", "control_match"], match))
