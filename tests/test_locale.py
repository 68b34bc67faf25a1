"""Commands in a locale that knows ASCII only: the same numbers, and output that says every character."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

OLD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LABELS = ["γ-Oryzanol_0.5", "黄连素_0.5", "NA", "=cmd()", "DMSO"]


def statetx(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "statetx", *arguments],
        capture_output=True,
        cwd=home,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with real and predicted cells of two lines."""
    home = tmp_path_factory.mktemp("cells")
    draw = np.random.default_rng(0)
    labels = np.repeat([*LABELS, *LABELS], 12)
    obs = pd.DataFrame({"drug": labels, "line": np.repeat(["βTC6", "K562"], len(labels) // 2)})
    obs.index = [f"c{i}" for i in range(len(obs))]
    for name in ("real", "pred"):
        values = np.log1p(draw.poisson(2.0, (len(obs), 30))).astype(np.float32)
        made = anndata.AnnData(
            values, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(30)])
        )
        made.write_h5ad(home / f"{name}.h5ad")
    return home


def test_evaluate_gives_the_same_tables(cells: Path) -> None:
    sides = ["--pred", "pred.h5ad", "--real", "real.h5ad", "--pert-col", "drug"]
    said = [*sides, "--control-pert", "DMSO", "--celltype-col", "line", "--out"]
    for out, environment in (("new", {"LC_ALL": "C.UTF-8"}), ("old", OLD)):
        done = statetx(cells, "evaluate", *said, out, **environment)
        assert done.returncode == 0, done.stderr.decode()
    for name in ("scores.csv", "results.csv"):
        old = (cells / "old" / "%CE%B2TC6" / name).read_bytes()
        assert (cells / "new" / "βTC6" / name).read_bytes() == old
        assert "γ-Oryzanol_0.5" in old.decode()
        assert "'=cmd()" in old.decode()


def test_errors_and_tables_say_every_character(cells: Path) -> None:
    columns = ["--pert-col", "drug", "--cell-type-key", "line", "--control-pert"]
    for encoding in ("ascii", "latin-1"):
        told = {**OLD, "PYTHONIOENCODING": encoding}
        done = statetx(cells, "inspect", "real.h5ad", *columns, "DMSO", "--scale", "log1p", **told)
        assert b"\\u03b3-Oryzanol" in done.stdout
        assert b"obs['drug'] has 24 cells labelled 'NA'" in b" ".join(done.stdout.split())
        done = statetx(cells, "lint", "γ.toml", **told)
        assert done.returncode == 1
        assert b"cannot read the split" in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_configuration_is_read(cells: Path) -> None:
    content = {
        "datasets": {"d": {"files": "real.h5ad", "control_pert": "γ", "scale": "log1p"}},
        "splits": {"s": {"dataset": "d", "generator": "line_out", "lines": ["βTC6"]}},
        "models": {"m": {"kind": "no_change"}},
        "experiments": {"e": {"splits": ["s"], "models": ["m"]}},
    }
    (cells / "c.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    done = statetx(cells, "split", "--config", "c.yaml", "--run", "d/s", **OLD)
    assert b"packed store" in done.stderr
    assert b"Traceback" not in done.stderr
