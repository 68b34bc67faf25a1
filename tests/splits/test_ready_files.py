"""The splits of Tahoe-100M that come with the project: what the generators make of its design."""

import importlib.util
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / "config" / "splits" / "tahoe"


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("make", HOME / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_what_the_generators_make_of_the_design(make, shared, tmp_path, monkeypatch):
    design = shared / "data" / "tahoe_design"
    if not design.is_dir():
        pytest.skip("the design of Tahoe-100M is not there")
    monkeypatch.setattr(sys, "argv", ["make.py", str(design), "--out", str(tmp_path)])
    make.main()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(p.name for p in HOME.iterdir() if p.suffix in (".toml", ".txt"))
    for name in names:
        assert (tmp_path / name).read_bytes() == (HOME / name).read_bytes(), name
