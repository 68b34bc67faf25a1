"""The page: complete, offline, safe, and the same bytes for the same inputs."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import pandas as pd
import pytest
import report_samples as samples

from statetx.core.errors import ResultsError
from statetx.data.store.plan import read_plan, write_plan
from statetx.reporting import figures
from statetx.reporting.page import split_summary as splits
from statetx.reporting.page.page import heatmap, page
from statetx.reporting.page.run_files import curve

NASTY = '<Drug & "x">'


class Reader(HTMLParser):
    """Collects ids, references, tags and text."""

    VOID = frozenset({"meta", "br", "wbr", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.references.append(value)
            assert not key.startswith("on"), f"{tag} has a handler {key}"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def render(arguments, out, title=None) -> str:
    page(**arguments, out=out, title=title)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    return render(samples.demo(directory), directory / "page.html")


def test_the_page_loads_nothing(demo):
    read = Reader(demo)
    assert read.references
    for reference in read.references:
        assert reference.startswith(("#", "data:image/png;base64,")), reference
    assert not set(read.tags) & {"script", "link", "iframe", "object", "embed", "img", "form"}
    assert not re.search(r"https?://|//[a-z]+\.|@import|@font-face", demo)
    assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", demo))
    assert "default-src 'none'" in demo


def test_the_page_is_well_formed_and_its_ids_are_unique(demo):
    read = Reader(demo)
    assert read.open == []
    assert [i for i, n in Counter(read.ids).items() if n > 1] == []
    for target in {r[1:] for r in read.references if r.startswith("#")}:
        assert target in read.ids
    for target in re.findall(r"url\(#([^)]*)\)", demo):
        assert target in read.ids


def test_sentence_table_and_sections_are_there(demo):
    text = Reader(demo).words
    assert (
        "pertsets is BETTER than the best baseline (perturbation_mean) in Pearson of deltas: "
        "+0.028 [+0.008, +0.048], wins 58 % of conditions, p = 0.003." in text
    )
    assert "▼ WORSE" in text  # the second headline metric is lost, and this is said at the top
    for number in ("0.551", "[0.502, 0.600]", "0.812", "0.523", "2 undefined", "+0.10"):
        assert number in text
    assert "bootstrap over drugs, 2,000 draws" in text
    headings = re.findall(r'<h2 id="(\w+)">', demo)
    assert headings == ["verdict", "table", "headline", "lines", "training", "split", "provenance"]
    assert "no training curve" in text
    assert "chosen: step 1,200" in text  # where the validation loss of the sample is lowest


def test_the_greyed_metric_says_why(demo):
    row = next(r for r in re.findall(r'<tr class="grey">.*?</tr>', demo, re.S))
    assert "DE overlap at N" in row
    assert "is not clearly better than the floor" in row
    assert demo.count('<tr class="grey">') == 1


def test_the_best_value_is_marked_in_words_too(demo):
    cells = re.findall(
        r'<td class="number (\w+) best"><b>([^<]*)</b><span class="unseen"> best', demo
    )
    assert cells[:2] == [("model", "0.551"), ("baseline", "0.612")]


def test_a_page_without_intervals_gives_the_reason(tmp_path):
    text = Reader(render(samples.large(tmp_path), tmp_path / "p.html")).words
    assert "No intervals. 2 drugs in 1 cell line are too few to resample." in text
    assert "UNDECIDED" in text
    assert "pertsets, seed 1" in text
    assert "fewer than 2 cells : 9 conditions" in text or "fewer than 2 cells: 9 conditions" in text
    assert "12 labels were never seen in training" in text
    assert "wide_model : this model was judged, but its model directory was not given" in text


def test_folds_over_lines(tmp_path):
    out = render(samples.folds(tmp_path), tmp_path / "p.html")
    text = Reader(out).words
    assert "bootstrap over cell lines" in text
    assert "Splits × cell lines" in text
    assert "FCGR3A+ Monocytes" in text
    assert "no conditions.parquet" in text


def test_labels_from_the_data_are_escaped(tmp_path):
    content = samples.verdict()
    for entry in content["per_line"]:
        entry["line"] += NASTY
    content["experiment"] = NASTY
    content["metrics"][0] |= {"label": NASTY, "description": NASTY}
    content["flags"] = [
        {"name": NASTY, "seed": None, "message": "</style><script>alert(1)</script>"}
    ]
    content["cohort"]["dropped"] = [
        {"split": NASTY, "line": NASTY, "perturbation": NASTY, "reason": NASTY}
    ]
    for item in content["rows"]:
        item["name"] = item["name"].replace("context_mean", NASTY)
    arguments = samples.demo(tmp_path, content)
    plan = pd.DataFrame(
        [("L$1$" + NASTY, NASTY + "_0.5uM", "train", NASTY), ("b", "c$d", "test", "--><b>")],
        columns=["line", "perturbation", "role", "reason"],
    )
    write_plan(plan, tmp_path / "nasty.parquet")
    arguments["plans"] = {NASTY: tmp_path / "nasty.parquet"}
    out = render(arguments, tmp_path / "p.html", title=NASTY)
    assert "<Drug" not in out
    assert "<script" not in out
    assert out.count(html.escape(NASTY, quote=False).split('"')[0]) > 8
    read = Reader(out)
    assert read.open == []
    assert NASTY in read.words
    assert "L$1$" in read.words  # dollar signs are no formula


def test_equal_inputs_give_equal_bytes(tmp_path):
    arguments = samples.demo(tmp_path)
    first = render(arguments, tmp_path / "a.html")
    for run in arguments["model_dirs"]:
        assert str(run.path) not in first
    arguments["model_dirs"] = arguments["model_dirs"][::-1]
    assert render(arguments, tmp_path / "b.html") == first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert render(samples.demo(elsewhere), tmp_path / "c.html") == first


def test_dicts_serve_as_runs(tmp_path):
    arguments = samples.demo(tmp_path)
    first = render(arguments, tmp_path / "a.html")
    arguments["model_dirs"] = [vars(run) for run in arguments["model_dirs"]]
    assert render(arguments, tmp_path / "b.html") == first


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.update(manifest=a["manifest"].parent / "none.json"), "store's manifest"),
        (lambda a: a.update(plans={"dc20": a["verdict"]}), "plan"),
        (lambda a: (a["model_dirs"][0].path / "model.json").unlink(), "says about itself"),
        (lambda a: a.update(model_dirs=[{"split": "s", "model": "m", "seed": 0}]), "no 'path'"),
        (lambda a: shutil.rmtree(a["model_dirs"][0].path), "no model directory"),
    ],
)
def test_missing_inputs_are_named_and_nothing_is_written(tmp_path, change, says):
    arguments = samples.demo(tmp_path)
    change(arguments)
    with pytest.raises(ResultsError, match=says):
        page(**arguments, out=tmp_path / "out" / "page.html")
    assert not (tmp_path / "out").exists()


def test_baselines_alone_make_a_page(tmp_path):
    content = samples.verdict()
    content["rows"] = [r for r in content["rows"] if r["role"] != "model"]
    content |= {"comparisons": [], "per_line": []}
    arguments = samples.demo(tmp_path, content)
    arguments |= {"model_dirs": [], "plans": {}}
    text = Reader(render(arguments, tmp_path / "p.html")).words
    assert "compares baselines only" in text
    assert "no values per cell line" in text
    assert "its plan was not given" in text


def test_an_undefined_headline_metric_is_survived(tmp_path):
    content = samples.verdict()
    for row in content["rows"]:
        row["metrics"]["pearson_delta"].update(mean=None, low=None, high=None)
    for entry in content["per_line"]:
        entry["metrics"]["pearson_delta"] = None
    out = render(samples.demo(tmp_path, content), tmp_path / "p.html")
    assert "no values per cell line" in out


def test_what_is_optional_may_be_absent(tmp_path):
    content = samples.verdict()
    for metric in content["metrics"]:
        for key in ("perfect", "description"):
            metric.pop(key)
    needed = ("format", "cohort", "metrics", "rows")
    content = {key: content[key] for key in needed}
    content["interval"] = {"unit": None, "n_bootstrap": 0}
    text = Reader(render(samples.demo(tmp_path, content), tmp_path / "p.html")).words
    assert "the verdict does not say why" in text
    assert "pertsets is UNDECIDED in Pearson of deltas: there is no baseline to compare" in text


def test_what_a_metric_leaves_out_is_on_the_page(tmp_path):
    content = samples.verdict()
    left_out = {"metric": "mmd", "n": 23, "reason": "too few cells"}
    content["cohort"]["undefined"] = [left_out]
    text = Reader(render(samples.demo(tmp_path, content), tmp_path / "p.html")).words
    assert "No condition was dropped for all metrics." in text
    assert "MMD: 23 conditions left out: too few cells" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no metrics.csv"),
        ("", "is empty"),
        ("step,train_loss\n", "no rows"),
        ("epoch,loss\n1,2\n", "no column step"),
        ("step,train_loss,val_loss\n1,,\n", "no finite loss"),
    ],
)
def test_why_there_is_no_training_curve(tmp_path, text, says):
    run = samples.run(tmp_path / "m", "s", "m")
    if text is not None:
        (run.path / "metrics.csv").write_text(text)
    found = curve(run)
    assert found.table is None
    assert says in found.why_not


def test_the_chosen_step_is_what_the_model_says_it_is(tmp_path):
    run = samples.run(tmp_path / "m", "s", "m", steps=600)
    (run.path / "model.json").write_text("{}")
    assert curve(run).chosen == 600  # lowest validation loss
    (run.path / "model.json").write_text(
        '{"checkpoints": {"best": {"step": 300, "why": "the last step"}}}'
    )
    assert (curve(run).chosen, curve(run).why_chosen) == (300, "the last step")


def test_a_curve_without_validation_is_drawn(tmp_path):
    run = samples.run(tmp_path / "m", "s", "m")
    (run.path / "metrics.csv").write_text("step,train_loss\n1,2.0\n2,1.0\n")
    found = curve(run)
    assert found.chosen is None
    drawn = figures.curves([(found.title, found.table, found.chosen)])
    assert ">train<" in drawn
    assert ">validation<" not in drawn


def test_counts_and_grid_of_a_split(tmp_path):
    plan = read_plan(samples.plan(tmp_path / "plan.parquet", 10, 20))
    cells = splits.cells_per_condition(samples.manifest(tmp_path / "m" / "manifest.json"))
    train, val, test = splits.counts("dc20", plan, cells).roles
    assert (test.lines, test.drugs, test.perturbations, test.conditions, test.cells) == (
        2, 4, 12, 24, 24 * 40,
    )  # fmt: skip
    assert (val.conditions, train.conditions) == (3, 600 - 24 - 3 - 3)
    drawn = splits.pictures({"dc20": plan}, cells)
    assert [p.roles for p in drawn] == [["train", "val", "test", "none"]]


def test_cells_of_an_unlisted_condition_are_unknown_not_zero(tmp_path):
    plan = read_plan(samples.plan(tmp_path / "plan.parquet", 10, 20))
    cells = splits.cells_per_condition(samples.manifest(tmp_path / "m" / "manifest.json"))
    train, _, test = splits.counts("dc20", plan, cells.drop(("L01", "drug001_5uM"))).roles
    assert test.cells is None
    assert train.cells is not None


def test_the_heatmap_is_brightest_where_it_is_best():

    content = samples.verdict()
    for name, better in (("pearson_delta", max), ("mmd", min)):
        for metric in content["metrics"]:
            metric["headline"] = metric["name"] == name
        laid = heatmap(samples.laid_out(content))
        values = {
            (entry["name"], entry["line"]): entry["metrics"][name] for entry in content["per_line"]
        }
        best, line = better(values, key=values.__getitem__)
        row = next(r for r in laid["rows"] if r["line"] == line)
        column = [c.name for c in laid["columns"]].index(best)
        assert row["cells"][column]["background"] == figures.cividis(1)[0]


def test_the_heatmap_never_lends_one_seed_the_numbers_of_another():

    content = samples.verdict()
    content["rows"].append({**content["rows"][-2], "seed": 1})
    laid = heatmap(samples.laid_out(content))
    column = [c.title for c in laid["columns"]].index("pertsets, seed 1")
    assert {row["cells"][column]["text"] for row in laid["rows"]} == {"–"}


@pytest.mark.parametrize("share", [i / 20 for i in range(21)])
def test_numbers_on_the_heatmap_can_be_read(share):
    def luminance(code):
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, figures.cividis(share)))
    assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.browser
@pytest.mark.parametrize("sample", ["demo", "folds", "large"])
def test_chromium_draws_the_page_without_a_complaint(tmp_path, sample):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs headless Chromium")
    render(getattr(samples, sample)(tmp_path), tmp_path / "page.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
               "--window-size=1280,3000", f"--screenshot={tmp_path / 'page.png'}"]  # fmt: skip
    done = subprocess.run(
        [chromium, *options, (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "CONSOLE" not in done.stderr  # a refused load or a broken figure would be said there
    import matplotlib.image

    picture = matplotlib.image.imread(tmp_path / "page.png")
    assert picture.shape[:2] == (3000, 1280)
    grey = picture[..., :3].mean(axis=2)
    assert (abs(grey - grey[5, 5]) > 0.2).mean() > 0.01  # ink, not an empty sheet


def test_the_mean_of_seeds_is_told_and_strata_are_drawn(tmp_path):
    content = samples.verdict()
    (model,) = [row for row in content["rows"] if row["role"] == "model"]
    judged = list(content["comparisons"])
    for seed in (1, None):
        content["rows"].append({**model, "seed": seed})
        content["comparisons"] += [{**c, "seed": seed} for c in judged]
    name = content["metrics"][0]["name"]
    content["strata"] = [
        {"model": "pertsets", "seed": seed, "metric": name, "against": "context_mean",
         "stratum": stratum, "n": 8, "difference": 0.1 * i, "low": 0.1 * i - 0.02, "high": 0.1 * i + 0.02}
        for seed in (0, 1, None) for i, stratum in enumerate(("weak", "medium", "strong"))
    ]  # fmt: skip
    arguments = samples.demo(tmp_path, content)
    page(**arguments, out=tmp_path / "page.html", title=None)
    text = (tmp_path / "page.html").read_text()
    told = re.findall(r"pertsets, (?:seed \d|mean of \d seeds) is [A-Z]+", text)
    assert told
    assert all("mean of 2 seeds" in sentence for sentence in told)
    table = text.split("Weak and strong effects")[1].split("</table>")[0]
    assert [part in table for part in ("weak", "medium", "strong")] == [True] * 3
    assert table.count("8 conditions") == 3
    assert "+0.200" in table
    assert "[+0.180, +0.220]" in table
