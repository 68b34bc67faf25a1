"""What `statetx inspect` prints, read as text."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from statetx.config import Dataset
from statetx.data.inspection import inspect as h5ad
from statetx.data.inspection.design import Columns, Design
from statetx.data.inspection.scale import Seen
from statetx.reporting.terminal.inspected_files import scale_words
from statetx.reporting.terminal.inspection import print_inspection
from statetx.reporting.terminal.terminal import WIDTH, number, some


def printed(report: h5ad.Report, cell_set_len: int = 256, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    print_inspection(report, cell_set_len, out)
    text = raw.getvalue().decode(encoding)
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "\x1b" not in text
    return text


def words(text: str) -> str:
    """One line, so that a phrase is found wherever it was folded."""
    return " ".join(text.replace("\\\n", "\n").split())


@pytest.fixture(scope="module")
def files(tiny_source: Path) -> list[Path]:
    return sorted(tiny_source.glob("L*.h5ad"))


def test_everything_that_is_declared_is_counted(files: list[Path], tiny_settings: Dataset) -> None:
    report = h5ad.inspect(files, tiny_settings, full=False)
    text = printed(report)
    said = words(text)
    cells = [anndata.read_h5ad(path, backed="r").n_obs for path in files]
    for piece in (
        f"4 files, {sum(cells):,} cells",
        "4 cell lines, 12 perturbations, 2 batches, 240 control cells",
        "none: genes, their order, columns and matrices are the same in all files",
        "hvg_names (60 genes, as many as X_hvg has)",
        "X_hvg (60 × float32)",
        "8 (line, batch) pairs with treated cells",
        "controls repeat within a set",
        "48 conditions",
        "No problem found",
    ):
        assert piece in said, piece
    for path, n in zip(files, cells, strict=True):
        assert re.search(rf"{path.name} .* {n} +120 +csr", text), path.name
        assert re.search(rf"^ *{path.stem} +{n} +12 +60 +2$", text, re.MULTILINE), path.stem
    assert report.needs is not None
    assert "bytes per cell" in said
    assert "GPU of 80 GB, beside the model: yes" in said


def test_enough_controls_are_said_to_be_enough(files: list[Path], tiny_settings: Dataset) -> None:
    said = words(printed(h5ad.inspect(files, tiny_settings, full=False), cell_set_len=2))
    assert "all have a set's worth of controls (2) or more" in said
    assert "0 of fewer than a set (2)" in said


def test_without_columns_candidates_are_named_and_nothing_is_counted(files: list[Path]) -> None:
    report = h5ad.inspect(files[:1], full=False)
    said = words(printed(report))
    assert (
        "obs['drug_dose'] has 13 labels, 'DMSO_TF_00' looks like a control: --pert-col drug_dose "
        "--control-pert DMSO_TF_00?"
    ) in said
    assert "Not said, so not counted or checked: --pert-col, --cell-type-key" in said
    command = said[said.index("statetx inspect") : said.index("No problem")]
    options = (
        "--pert-col drug_dose --cell-type-key cell_line --batch-col batch "
        "--control-pert DMSO_TF_00 --scale counts"
    )
    assert command.strip() == f"statetx inspect {files[0]} {options}"
    assert "Cells by label" not in said
    assert "only where it is declared" in said


@pytest.mark.parametrize("label", ["[('DMSO_TF', 0.0, 'uM')]", "control 0", "it's $5", 'a "b"'])
def test_the_command_gives_labels_as_they_are(
    files: list[Path], tmp_path: Path, label: str
) -> None:
    cells = anndata.read_h5ad(files[0])
    named = {"DMSO_TF_00": f"DMSO {label}"}
    cells.obs["drug_dose"] = cells.obs["drug_dose"].cat.rename_categories(named)
    cells.write_h5ad(tmp_path / "a.h5ad")
    said = words(printed(h5ad.inspect([tmp_path / "a.h5ad"])))
    command = shlex.split(said[said.index("statetx inspect") : said.index("No problem")])
    assert command[command.index("--control-pert") + 1] == f"DMSO {label}"


def test_a_control_is_suggested_for_a_named_column(files: list[Path]) -> None:
    report = h5ad.inspect(files, Columns(pert_col="drug_dose", cell_type_key="cell_line"))
    said = words(printed(report))
    assert "13 labels, 'DMSO_TF_00' looks like a control" in said
    assert "--pert-col drug_dose --cell-type-key cell_line" in said
    assert "controls" not in said[said.index("Cells by label") : said.index("Estimate")]


def test_batches_without_controls(files: list[Path], tmp_path: Path) -> None:
    cells = anndata.read_h5ad(files[0])
    control = (cells.obs["drug_dose"] == "DMSO_TF_00").to_numpy()
    cells.obs["plate"] = pd.Categorical(np.where(control, "plate0", "plate1"))
    cells.write_h5ad(tmp_path / "a.h5ad")
    settings = Dataset(files=[], batch_col="plate", control_pert="DMSO_TF_00", scale="counts")
    text = printed(h5ad.inspect([tmp_path / "a.h5ad"], settings))
    said = words(text)
    assert "1 have no control: their cells get controls of the line's other batches" in said
    assert "effects of batch and treatment cannot be told apart" in said
    assert re.search(rf"L01 +plate1 +{int((~control).sum())} +0$", text, re.MULTILINE)
    only_batch = settings.model_copy(update={"control_match": [["cell_line", "plate"]]})
    said = words(printed(h5ad.inspect([tmp_path / "a.h5ad"], only_batch)))
    assert "control_match leaves their cells without a control" in said


def test_differences_between_files(files: list[Path], tmp_path: Path) -> None:
    cells = anndata.read_h5ad(files[1])
    order = [1, 0, *range(2, cells.n_vars)]
    cells[:, order].copy().write_h5ad(tmp_path / "order.h5ad")
    del cells.obsm["X_embedding"]
    cells.obs["well"] = "A1"
    cells[:, 2:].copy().write_h5ad(tmp_path / "fewer.h5ad")
    report = h5ad.inspect([files[0], tmp_path / "order.h5ad", tmp_path / "fewer.h5ad"], full=False)
    said = words(printed(report))
    first, second = report.files[0].genes[:2]
    assert (
        f"order.h5ad: other order of genes, first {second!r} where the first file has {first!r}"
        in said
    )
    assert f"fewer.h5ad: 2 genes missing ({first!r}, {second!r})" in said
    assert "obs also has 'well'" in said
    assert "obsm does not have 'X_embedding'" in said
    assert "1 problem to fix before packing" in said
    assert "genes: intersect" in said


def test_problems_have_place_and_fix(files: list[Path], tiny_settings: Dataset) -> None:
    wrong = tiny_settings.model_copy(update={"control_pert": "DMSO_TF"})
    said = words(printed(h5ad.inspect(files, wrong, full=False)))
    assert "1 problem to fix before packing - no cell has the control label 'DMSO_TF'" in said
    assert "fix did you mean 'DMSO_TF_00'?" in said
    nothing = printed(h5ad.inspect([Path("none.h5ad")]))
    assert "the file does not exist" in nothing


def test_labels_that_need_a_second_look(files: list[Path], tmp_path: Path) -> None:
    cells = anndata.read_h5ad(files[0])
    labels = cells.obs["drug_dose"].astype(str).to_numpy(dtype=object)
    treated = np.flatnonzero(labels != "DMSO_TF_00")
    labels[treated[0]], labels[treated[1]] = "dmso_tf_00", labels[treated[2]] + " "
    cells.obs["drug_dose"] = pd.Categorical(labels)
    cells.write_h5ad(tmp_path / "a.h5ad")
    settings = Dataset(files=[], control_pert="DMSO_TF_00", scale="counts")
    text = printed(h5ad.inspect([tmp_path / "a.h5ad"], settings))
    said = words(text)
    assert "'dmso_tf_00', which reads like a control and counts as a perturbation" in said
    assert "'DMSO_TF_00', 'dmso_tf_00': different labels, or one with two spellings?" in said
    assert f"'{labels[treated[1]]}'" in text, "a trailing blank shows"


def test_no_label_is_cut_and_every_cut_list_says_how_much(
    files: list[Path], tiny_settings: Dataset
) -> None:
    report = h5ad.inspect(files, tiny_settings, full=False)
    long = "[('Some drug, (R)-enantiomer', 0.05, 'uM')] " * 4
    table = pd.DataFrame(
        [(f"line {i}", f"{long}{i}", "b", i + 1) for i in range(100)],
        columns=["line", "perturbation", "batch", "cells"],
    )
    report.design = Design([table], ["control"])
    text = printed(report)
    assert "… and 40 more lines" in text
    assert "… and 90 more" in text
    assert text.count("enantiomer") == 4 * 10, "the ten smallest conditions, whole"


def test_an_old_encoding_gets_plain_signs(files: list[Path], tiny_settings: Dataset) -> None:
    text = printed(h5ad.inspect(files, tiny_settings, full=False), encoding="ascii")
    assert "X_hvg (60 x float32)" in text


def test_square_brackets_in_labels_are_no_markup(files: list[Path], tmp_path: Path) -> None:
    cells = anndata.read_h5ad(files[0])
    names = {n: f"[bold]{n}[/bold]" for n in cells.obs["drug_dose"].cat.categories}
    cells.obs["drug_dose"] = cells.obs["drug_dose"].cat.rename_categories(names)
    cells.write_h5ad(tmp_path / "a.h5ad")
    report = h5ad.inspect([tmp_path / "a.h5ad"], Columns(pert_col="drug_dose"))
    assert "[bold]DMSO_TF_00[/bold]" in printed(report)


COUNTS = Seen(1024, 9, True, 0, 312, 0.9, (100, 200, 25_311), 0, 312)
LOG = Seen(1024, 9, False, 0, 8.9, 0.9, (9999.99, 1e4, 1e4), 0, None)


@pytest.mark.parametrize(("seen", "said"), [
    (COUNTS, "whole numbers up to 312 in 1,024 sampled cells: counts (100 to 25,311 per cell)"),
    (replace(COUNTS, cells=5000), "in all 5,000 cells"),
    (replace(COUNTS, cells=0, sums=None), "whole numbers up to 312 in 9 sampled values: counts"),
    (LOG, "decimals up to 8.9 in 1,024 sampled cells, expm1 sums to 10,000 in every sampled cell: "
          "log1p with target_sum 10,000"),
    (replace(LOG, largest_count=40.0), "counts can be recovered from it"),
    (replace(LOG, sums=(2100.0, 5000.0, 9876.4)), "expm1 sums to between 2,100 and 9,876.4: log1p, but "
                                                 "not of one target_sum"),
    (replace(LOG, largest=531.5), "summing to 10,000 in every sampled cell: counts per 10,000, no logarithm"),
    (replace(LOG, largest=531.5, sums=(1.0, 2.0, 3.0)), "counts that were corrected or averaged"),
    (replace(LOG, low=-3.2), "values from -3.2 to 8.9 in 1,024 sampled cells: scaled or centred"),
    (replace(LOG, values=0), "nothing but zeros"),
])  # fmt: skip
def test_scale_in_words(seen: Seen, said: str) -> None:
    assert said in scale_words(seen, 5000)


def test_lists_and_numbers() -> None:
    names = [f"label{i}" for i in range(1138)]
    assert some(names).endswith("… and 1,132 more")
    assert some(names[:3]) == "'label0', 'label1', 'label2'"
    assert some(["x" * 200, "y"]) == f"{'x' * 200!r}, … and 1 more", "the first is never cut"
    assert some([], total=5) == ""
    assert some(names[:2], total=9) == "'label0', 'label1', … and 7 more"
    assert [number(v) for v in (1832.5, 1e4, 8.9001, 0.012345, 2407.0, 10000.02)] == [
        "1,832.5", "10,000", "8.9", "0.01235", "2,407", "10,000",
    ]  # fmt: skip


def test_the_command_and_its_exit_codes(files: list[Path], tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "statetx", "inspect", *map(str, files), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    columns = ["--pert_col", "drug_dose", "--cell-type-key", "cell_line", "--batch-col", "batch"]
    good = run(*columns, "--control-pert", "DMSO_TF_00", "--control-pert", "DMSO", "--scale=counts")
    assert good.returncode == 0, good.stderr
    assert "240 control cells" in good.stdout
    assert "No problem found" in good.stdout
    bad = run(*columns, "--control-pert", "DMSO_TF_00", "--scale", "log1p", "--full")
    assert bad.returncode == 1
    assert "is declared as log1p but looks like counts" in words(bad.stdout)
    both = run(*columns, "--config", "any.yaml")
    assert both.returncode == 2
    assert "not both" in both.stderr
    assert list(tmp_path.iterdir()) == [], "nothing is written"
