"""cell-load's TOML: its semantics, its silent mistakes as errors, and the way back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conditions import CONTROL, conditions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from statetx.config import BlockSplit, TomlSplit
from statetx.core.errors import SplitError
from statetx.data.store.plan import ROLES
from statetx.splits.apply_toml import roles_from_toml
from statetx.splits.findings import CHECKS, Findings
from statetx.splits.generators.generate import generate
from statetx.splits.lint.lint import Facts
from statetx.splits.split import checked
from statetx.splits.toml import SplitFile, parse, write_toml

LINES = ["A549", "HOP 62", "Hep G2/C3A", "v1.2"]
CONDITIONS = conditions_of(LINES, ["Alpha", "Beta", "Gamma"])
CONTROLS = [CONTROL, "DMSO_TF"]

GOOD = """
[datasets]
rep = "/data/somewhere/*.h5ad"

[training]
rep = "train"

[zeroshot]
"rep.v1.2" = "test"
"rep.HOP 62" = "val"

[fewshot."rep.Hep G2/C3A"]
val = ["Alpha_0.5", "Alpha_5"]
test = ["Beta_0.5", "Beta_5"]
"""


def read(
    text: str, conditions: pd.DataFrame = CONDITIONS, dataset: str = "d", compat: bool = False
) -> tuple[pd.DataFrame, Findings]:
    log = Findings(compat)
    file = parse(tomllib.loads(text), log)
    return roles_from_toml(file, dataset, conditions, CONTROLS, log), log


def roles(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    return dict(
        zip(zip(table["line"], table["perturbation"], strict=True), table["role"], strict=True)
    )


def of_line(table: pd.DataFrame, line: str) -> dict[str, str]:
    return {label: role for (name, label), role in roles(table).items() if name == line}


def codes(log: Findings) -> list[str]:
    return [item.code for item in log.items]


def cell_load_roles(
    content: dict[str, Any], conditions: pd.DataFrame, dataset: str
) -> dict[tuple[str, str], str]:
    """Roles by the rules that cell-load 0.10.4 was observed to follow, written independently.

    That a label in `val` and in `test` tests is a rule of ours.
    """
    out = {}
    real = conditions[~conditions["is_control"]]
    for line, label in set(zip(real["line"], real["perturbation"], strict=True)):
        key = f"{dataset}.{line}"
        if key in content.get("zeroshot", {}):
            out[line, label] = content["zeroshot"][key]
        elif key in content.get("fewshot", {}):
            lists = content["fewshot"][key]
            held = [role for role in ("test", "val") if label in lists.get(role, [])]
            out[line, label] = held[0] if held else "train"
        elif content.get("training", {}).get(dataset) == "train":
            out[line, label] = "train"
    return out


def test_semantics() -> None:
    table, log = read(GOOD)
    assert log.items == []
    assert len(roles(table)) == 4 * 6
    assert set(of_line(table, "v1.2").values()) == {"test"}
    assert set(of_line(table, "HOP 62").values()) == {"val"}
    assert set(of_line(table, "A549").values()) == {"train"}
    labels = ["Alpha_0.5", "Alpha_5", "Beta_0.5", "Beta_5", "Gamma_0.5", "Gamma_5"]
    expected = ["val", "val", "test", "test", "train", "train"]
    assert of_line(table, "Hep G2/C3A") == dict(zip(labels, expected, strict=True))
    assert roles(table) == cell_load_roles(tomllib.loads(GOOD), CONDITIONS, "rep")


def test_without_training_the_other_lines_are_left_out_and_said() -> None:
    table, log = read('[datasets]\nd = "x"\n[fewshot."d.A549"]\ntest = ["Beta_0.5", "Beta_5"]\n')
    assert set(table["line"]) == {"A549"}
    assert list(table["role"]).count("train") == 4  # the rest of a few-shot line trains anyway
    (item,) = log.items
    assert (item.severity, item.code) == ("warning", "lines-left-out")
    assert "HOP 62" in item.what


# ---------------------------------------------------------------------------------------------
# mistakes

PATH = '[datasets]\nd = "x"\n'
HEAD = PATH + '[training]\nd = "train"\n'
TEST = '[zeroshot]\n"d.A549" = "test"\n'
FEW = '[fewshot."d.A549"]\n'
VAL_TEST = FEW + 'val = ["Beta_5", "Alpha_5"]\ntest = ["Beta_5"]\n'
MISTAKES = {
    "line": (HEAD + '[zeroshot]\n"d.A594" = "test"\n', "unknown-line", "'A549'"),
    "few-shot line": (HEAD + '[fewshot."d.HOP62"]\n', "unknown-line", "did you mean 'HOP 62'?"),
    "drug": (HEAD + FEW + 'test = ["Betta_5"]', "unknown-perturbation", "did you mean 'Beta_5'?"),
    "drug in val": (HEAD + FEW + 'val = ["alpha_5"]', "unknown-perturbation", "mean 'Alpha_5'?"),
    "spelling": (HEAD + FEW + "test = ['Beta_5uM']", "unknown-perturbation", "'Beta_5'? It is the"),
    "data set": (PATH + '[training]\nd2 = "train"\n' + TEST, "unknown-dataset", "mean 'd'?"),
    "dotted data set": (PATH + '"d.v1" = "y"\n' + TEST, "dotted-dataset", "without dots"),
    "two data sets": (
        '[datasets]\nc = "x"\ne = "y"\n[training]\ne = "train"\n[zeroshot]\n"c.A549" = "test"\n',
        "several-datasets",
        "one TOML per data set",
    ),
    "unused data set": (PATH + 'e = "y"\n' + TEST, "unused-dataset", '"train" in [training]'),
    "role": (HEAD + '[zeroshot]\n"d.A549" = "tset"\n', "bad-role", "did you mean 'test'?"),
    "training value": (PATH + '[training]\nd = "yes"\n' + TEST, "training-value", '"train"'),
    "key without data set": (HEAD + '[zeroshot]\nA549 = "test"\n', "no-line", "dataset.line"),
    "key without line": (HEAD + '[fewshot."d."]\nval = []\n', "no-line", "dataset.line"),
    "key": (HEAD + FEW + 'train = ["Beta_5"]\n', "unknown-key", "labels that are not listed train"),
    "table": (HEAD + '[zero_shot]\n"d.A549" = "test"\n', "unknown-table", "'zeroshot'"),
    "key above the tables": ("seed = 1\n" + HEAD + TEST, "unknown-table", ""),
    "no table": ('zeroshot = "d.A549"\n' + HEAD, "no-table", "[zeroshot]"),
    "no few-shot table": (HEAD + '[fewshot]\n"d.A549" = ["Beta_5"]\n', "no-table", ""),
    "no list": (HEAD + FEW + 'test = "Beta_5"\n', "no-list", ""),
    "list of numbers": (HEAD + FEW + "test = [5]\n", "no-list", ""),
    "path": (PATH + 'e.v1 = "x"\n' + TEST, "dataset-path", "without dots"),
    "val and test": (HEAD + VAL_TEST, "val-test-overlap", "only once"),
    "line twice": (HEAD + TEST + VAL_TEST.replace("Beta_5", "Beta_0.5", 1), "line-twice", "ignore"),
    "control": (HEAD + FEW + 'test = ["Beta_5", "DMSO_TF"]\n', "control-listed", "remove it"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_one_error(name: str) -> None:
    text, code, fix = MISTAKES[name]
    _, log = read(text)
    (item,) = log.errors
    assert item.code == code
    assert fix in item.fix
    with pytest.raises(SplitError) as caught:
        log.raise_errors("my.toml")
    assert "my.toml" in str(caught.value.where)


@pytest.mark.parametrize("name", [n for n, (_, c, _) in MISTAKES.items() if CHECKS[c].ignored])
def test_a_mistake_that_cell_load_ignores_gives_its_plan_for_compat(name: str) -> None:
    text, code, _ = MISTAKES[name]
    table, log = read(text, compat=True)
    assert log.errors == []
    assert ("warning", code) in {(item.severity, item.code) for item in log.items}
    assert roles(table) == cell_load_roles(tomllib.loads(text), CONDITIONS, "d")


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_line_with_quotes_and_without_cell_load_reads_that_in_quotes(order: int) -> None:
    lines = ['"d.A549" = "test"', 'd.A549 = "val"'][::order]
    table, log = read(HEAD + "\n".join(["[zeroshot]", *lines]), compat=True)
    assert codes(log) == ["unquoted", "line-twice"]
    assert set(of_line(table, "A549").values()) == {"test"}


@pytest.mark.parametrize("text", [HEAD, HEAD + '[zeroshot]\n"d.A549" = "val"\n'])
def test_a_file_that_tests_nothing_is_refused(text: str) -> None:
    chosen = TomlSplit(dataset="d", toml="my.toml")
    report = checked(CONDITIONS, chosen, None, tomllib.loads(text), {}, Facts(tuple(CONTROLS)))[1]
    assert [item.code for item in report.findings.errors] == ["empty-test"]
    assert "hold out" in report.findings.errors[0].fix


def test_a_dotted_data_set_comes_before_what_it_makes_unreadable() -> None:
    name = '"d.v1" = "train"\n'
    _, log = read(f'[datasets]\n{name}[training]\n{name}[zeroshot]\n"d.v1.A549" = "test"\n')
    assert log.errors[0].code == "dotted-dataset"


def test_all_mistakes_are_reported_at_once() -> None:
    _, log = read(HEAD + '[zeroshot]\n"d.A594" = "test"\n[fewshot."d.HOP 62"]\ntest = ["Bta_5"]\n')
    with pytest.raises(SplitError) as caught:
        log.raise_errors("my.toml")
    for words in ("2 errors", "'A594'", "'Bta_5'"):
        assert words in str(caught.value)


def test_a_label_of_another_line_says_so() -> None:
    conditions = conditions_of(LINES, ["Alpha", "Beta"], missing=(("A549", "Beta_5"),))
    _, log = read(HEAD + FEW + 'test = ["Beta_5"]\n', conditions)
    assert "other lines have it" in log.errors[0].what


@pytest.mark.parametrize(
    "own",
    ['[statetx]\nleft_out = "d.A549"\n', '[statetx.left_out]\n"d.A549" = 5\n', "statetx = 1\n"],
)
def test_a_broken_table_of_our_own_is_a_finding(own: str) -> None:
    text = HEAD + FEW + 'val = ["Beta_5"]\n'
    _, log = read(own + text if own.startswith("statetx") else text + own)
    assert log.errors


@pytest.mark.parametrize("name", ['"d.A549" = ["Btea_5"]\n', '"d.A594" = ["Beta_5"]\n'])
def test_names_that_are_left_out_must_exist(name: str) -> None:
    _, log = read(HEAD + FEW + 'val = ["Beta_5"]\n[statetx.left_out]\n' + name)
    assert log.errors


# ---------------------------------------------------------------------------------------------
# awkward files

AWKWARD = conditions_of(
    ["A549", "v1.2", "Hep G2/C3A", "Línea ñ", "C[1], {2}", 'T"q"\\', "blank "],
    ["Erdafitinib ", "γ-Oryzanol", "(+)-Catechin", "5,6-DM[A]", "it's"],
)


@pytest.mark.parametrize("line", sorted(AWKWARD["line"].unique()))
def test_names_are_read_as_they_stand(line: str) -> None:
    labels = sorted({p for p in AWKWARD["perturbation"] if p != CONTROL})
    lists = f"\nval = {labels[:4]}\ntest = {labels[4:8]}\n"
    escaped = line.replace("\\", "\\\\").replace('"', '\\"')
    for key in (f"'d.{line}'", f'"d.{escaped}"'):
        table, log = read(HEAD + f"[fewshot.{key}]" + lists, AWKWARD)
        assert log.items == []
        found = of_line(table, line)
        assert [[p for p in labels if found[p] == role] for role in ROLES] == [
            labels[8:], labels[:4], labels[4:8]
        ]  # fmt: skip
        assert set(table.loc[table["line"] != line, "role"]) == {"train"}


def test_a_blank_too_few_is_an_error_that_names_the_right_spelling() -> None:
    _, log = read(HEAD + FEW + 'test = ["Erdafitinib_0.5", "Erdafitinib _5"]\n', AWKWARD)
    (item,) = log.errors
    assert (item.code, "'Erdafitinib _0.5'" in item.fix) == ("unknown-perturbation", True)


def test_an_entry_that_is_repeated_counts_once() -> None:
    text = HEAD + FEW + 'val = ["Alpha_5", "Alpha_5"]\ntest = ["Beta_5", "Gamma_5", "Beta_5"]\n'
    table, log = read(text)
    assert [(i.severity, i.code) for i in log.items] == [("note", "repeated-entry")] * 2
    assert "'Alpha_5'" in log.items[0].what
    assert "'Beta_5'" in log.items[1].what
    assert len(table) == len(roles(table))
    assert roles(table) == cell_load_roles(tomllib.loads(text), CONDITIONS, "d")


VAL = 'val = ["Beta_5"]\n'
NESTED = {
    "key": ('[zeroshot]\nd.A549 = "test"\n', TEST),
    "line with a dot": ('[zeroshot]\nd.v1.2 = "test"\n', '[zeroshot]\n"d.v1.2" = "test"\n'),
    "header": ('[zeroshot.d]\n"HOP 62" = "val"\n', '[zeroshot]\n"d.HOP 62" = "val"\n'),
    "few-shot header": ("[fewshot.d.A549]\n" + VAL, FEW + VAL),
    "few-shot line with a dot": ("[fewshot.d.v1.2]\n" + VAL, '[fewshot."d.v1.2"]\n' + VAL),
    "few-shot, half in quotes": ('[fewshot.d."v1.2"]\n' + VAL, '[fewshot."d.v1.2"]\n' + VAL),
    "few-shot keys": ("[fewshot]\nd.A549." + VAL, FEW + VAL),
    "few-shot without lists": ("[fewshot.d.A549]\n", FEW),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_tables_are_read_as_they_were_meant(name: str) -> None:
    nested, quoted = NESTED[name]
    table, log = read(HEAD + nested)
    assert [(item.severity, item.code) for item in log.items] == [("note", "unquoted")]
    assert '"dataset.line"' in log.items[0].fix
    meant, clean = read(HEAD + quoted)
    assert clean.items == []
    assert roles(table) == roles(meant)


def test_several_data_sets_are_split_each_by_its_name() -> None:
    text = '[datasets]\nd = "x"\n"e_1" = "y"\n[training]\nd = "train"\ne_1 = "train"\n' + TEST
    text += '"e_1.A549" = "val"\n[fewshot."e_1.HOP 62"]\ntest = ["Beta_5"]\n'
    for dataset, name in (("d", "d"), ("e.1", "e_1"), ("e_1", "e_1")):
        table, log = read(text, dataset=dataset)
        assert codes(log) == ["other-datasets"]
        assert roles(table) == cell_load_roles(tomllib.loads(text), CONDITIONS, name)
    _, log = read(text, dataset="f")
    assert "'d', 'e_1', but not 'f'" in log.errors[0].what


# ---------------------------------------------------------------------------------------------
# the way back

ANY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
NAME = ANY | st.text("ab. \"'[]{}#=\\\té,", min_size=1, max_size=6)
LABELS = st.lists(NAME, max_size=3, unique=True)
VALUE = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | NAME,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def split_files(draw: st.DrawFn) -> SplitFile:
    plain = NAME.filter(lambda name: "." not in name)
    names = draw(st.lists(plain, min_size=1, max_size=2, unique=True))
    keys = draw(st.lists(st.builds("{}.{}".format, st.sampled_from(names), NAME), unique=True))
    few = {key for key in keys if draw(st.booleans())}
    roles_of = {key: draw(st.sampled_from(ROLES)) for key in keys if key not in few}
    lists = st.dictionaries(st.sampled_from(["val", "test"]), LABELS)
    used = {key.partition(".")[0] for key in keys}
    fewshot = {key: draw(lists) for key in sorted(few)}
    held = {key: some["val"] for key, some in fewshot.items() if some.get("val")}
    return SplitFile(
        {name: draw(ANY | st.just("")) for name in names},
        tuple(name for name in names if name not in used or draw(st.booleans())),
        roles_of,
        fewshot,
        {key: val[: draw(st.integers(1, len(val)))] for key, val in held.items()},
        draw(st.dictionaries(NAME, VALUE, max_size=3)),
    )


@settings(max_examples=150, deadline=None)
@given(file=split_files())
def test_every_file_comes_back_from_its_text(file: SplitFile) -> None:
    log = Findings()
    again = parse(tomllib.loads(file.text()), log)
    assert again == file
    assert log.items == []
    assert again.text() == file.text()


LABEL = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_plan_comes_back_from_its_file(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = data.draw(st.lists(LABEL, min_size=1, max_size=4, unique=True))
    drugs = data.draw(st.lists(LABEL, min_size=1, max_size=3, unique=True))
    conditions = conditions_of(lines, drugs, batches=("p",))
    real = conditions[~conditions["is_control"]]
    left_out = data.draw(st.sampled_from([None, *lines])) if len(lines) > 1 else None
    real = real[real["line"] != left_out]
    options = st.sampled_from(["train", "val", "test", "none", "absent"])
    drawn = [data.draw(options) for _ in range(len(real))]
    table = real[["line", "perturbation"]].assign(role=drawn, reason="drawn")
    table.iloc[0, table.columns.get_loc("role")] = "test"
    table = table[table["role"] != "absent"]
    path = tmp_path_factory.mktemp("toml") / "split.toml"
    write_toml(table, conditions, "da.ta", "pack/dir", path)
    text = path.read_text(encoding="utf-8")
    content = tomllib.loads(text)
    again, log = read(text, conditions)
    assert log.errors == []
    used = {key: role for key, role in roles(table).items() if role != "none"}
    assert {key: role for key, role in roles(again).items() if role != "none"} == used
    # cell-load trains and tests the same; what is left out stands in its val, or nowhere.
    theirs = cell_load_roles(content, conditions, "da_ta")
    assert {key: theirs[key] for key in used} == used
    assert {role for key, role in theirs.items() if key not in used} <= {"val"}
    assert content["datasets"] == {"da_ta": "pack/dir"}


def test_the_form_of_a_written_file(tmp_path: Path) -> None:
    table, _ = read(GOOD)
    origin = {"generator": "by hand", "fold": None, "seed": 3}
    write_toml(table, CONDITIONS, "rep", "/data/somewhere/*.h5ad", tmp_path / "a.toml", origin)
    content = tomllib.loads((tmp_path / "a.toml").read_text())
    assert content.pop("statetx") == {"made_from": {"generator": "by hand", "seed": 3}}
    assert content == tomllib.loads(GOOD)
    block = generate(CONDITIONS, BlockSplit(dataset="d", generator="dc_block"))
    write_toml(block, CONDITIONS, "demo", "results/demo/pack", tmp_path / "b.toml")
    (line,) = block.loc[block["role"] == "test", "line"].unique()
    assert f'[fewshot."demo.{line}"]' in (tmp_path / "b.toml").read_text()


def test_cell_load_reads_what_we_write(tmp_path: Path) -> None:
    config = pytest.importorskip("cell_load.config", reason="cell-load is not installed")
    table, _ = read(GOOD)
    write_toml(table, CONDITIONS, "demo", str(tmp_path), tmp_path / "split.toml", {"seed": 1})
    experiment = config.ExperimentConfig.from_toml(str(tmp_path / "split.toml"))
    experiment.validate()
    assert experiment.get_zeroshot_celltypes("demo") == {"v1.2": "test", "HOP 62": "val"}
    assert experiment.get_fewshot_celltypes("demo") == {
        "Hep G2/C3A": {"val": ["Alpha_0.5", "Alpha_5"], "test": ["Beta_0.5", "Beta_5"]}
    }
