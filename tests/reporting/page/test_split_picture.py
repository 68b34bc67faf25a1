"""The picture of a split: roles and doses in their places, files that stand alone."""

import numpy as np
import pandas as pd
import pytest
import report_samples as samples
from matplotlib import image

from statetx.core.errors import ConfigError
from statetx.data.store.plan import read_plan
from statetx.reporting import figures
from statetx.reporting.page import split_picture as picture


def table(*rows):
    return pd.DataFrame(rows, columns=["line", "perturbation", "role"])


def test_the_held_out_block_stands_in_the_corner(tmp_path):
    grid = picture.of_plan(read_plan(samples.plan(tmp_path / "plan.parquet", 10, 20)).table)
    assert grid.roles.shape == (10, 20, 3)
    assert (grid.roles[:2, :4] == "test").all()
    assert int((grid.roles == "test").sum()) == 24
    assert grid.present == ["train", "val", "test"]


def test_every_dose_has_its_part_in_order_of_the_dose():
    grid = picture.of_plan(
        table(
            ("a", "d_10", "test"), ("a", "d_2", "val"), ("a", "d_0.5", "train"),
            ("a", "e", "test"), ("b", "d_0.5", "none"),
        )
    )  # fmt: skip
    a, b = grid.rows.index("a"), grid.rows.index("b")
    d, e = grid.columns.index("d"), grid.columns.index("e")
    assert grid.roles[a, d].tolist() == ["train", "val", "test"]
    assert grid.roles[a, e].tolist() == ["test"] * 3  # a single dose fills the cell
    assert grid.roles[b, d].tolist() == ["none"] * 3
    assert grid.roles[b, e].tolist() == [""] * 3


def test_many_drugs_run_down_where_their_names_can_be_read():
    rows = [(f"L{i:02d}", f"Drug {j:03d}_1", "train") for i in range(50) for j in range(380)]
    drawn = picture.draw(picture.of_plan(table(*rows)))
    (axes,) = drawn.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [f"Drug {j:03d}" for j in range(380)]
    pitch = drawn.get_figheight() * axes.get_position().height / 380 * 72  # points
    assert min(text.get_fontsize() for text in axes.get_yticklabels()) <= pitch
    assert drawn.get_figwidth() < 13


def test_files_are_drawn_in_the_colours_of_the_roles(tmp_path):
    rows = [(f"L{i}", f"D{j}_1", "test" if i < 3 else "train") for i in range(6) for j in range(6)]
    picture.write_picture(table(*rows), tmp_path / "split.png")
    pixels = (image.imread(tmp_path / "split.png")[:, :, :3] * 255).round().astype(int)
    for role in ("test", "train"):
        colour = np.array([int(figures.ROLE_COLOURS[role][i : i + 2], 16) for i in (1, 3, 5)])
        share = (np.abs(pixels - colour).max(axis=-1) <= 1).mean()
        assert share > 0.05, role
    picture.write_picture(table(*rows), tmp_path / "split.svg")
    text = (tmp_path / "split.svg").read_text()
    assert all(word in text for word in ("6 cell lines", "L5", "D5", "test"))
    assert not any(sentinel in text for sentinel in figures._VARIABLES if sentinel != figures.BLUE)


def test_equal_plans_give_equal_bytes(tmp_path):
    rows = table(("a", "d_1", "test"), ("b", "d_1", "train"))
    for name in ("x", "y"):
        picture.write_picture(rows, tmp_path / f"{name}.svg")
    assert (tmp_path / "x.svg").read_bytes() == (tmp_path / "y.svg").read_bytes()


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"split\.pdf"):
        picture.write_picture(table(("a", "d", "test")), tmp_path / "split.pdf")
