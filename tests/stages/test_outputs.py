"""Where a command may write: a free name, or with --force an earlier output of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from statetx.cli import main as cli
from statetx.config import NoChange
from statetx.stages import outputs
from statetx.training.fit import fit

Run = Callable[..., tuple[int, str]]
PRECIOUS = b"four years of work"
SPLIT = """
[datasets]
d = "x"
[training]
d = "train"
[fewshot."d.L1"]
test = ["A"]
val = ["B"]
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: exit code and its error message."""

    def work(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["statetx", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return int(done.value.code or 0), capsys.readouterr().err

    return work


@pytest.fixture(scope="session")
def model(tiny_store: Path, tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("outputs")
    places = (home / "model", home / "state", home / "checkpoints")
    fit(tiny_store, tiny_plan, NoChange(kind="no_change"), 0, *places)
    return home / "model"


@pytest.fixture
def commands(model: Path, tiny_source: Path, tmp_path: Path) -> dict[str, Callable[[Path], list]]:
    """Every command that a user tells where to write, with small inputs: output -> arguments."""
    home = tmp_path / "inputs"
    home.mkdir()
    (home / "split.toml").write_text(SPLIT)
    rows = [(line, drug, 50) for line in ("L1", "L2") for drug in ("A", "B", "C", "DMSO_TF_00")]
    table = pd.DataFrame(rows, columns=["line", "perturbation", "n_cells"])
    table.to_csv(home / "table.csv", index=False)
    for name, error in (("user", 1), ("baseline", 4)):
        (home / f"{name}.csv").write_text(f"statistic,mse\nmean,{error}\n")
    chance = np.random.default_rng(0)
    obs = pd.DataFrame({"drug": ["c"] * 20 + ["A"] * 20 + ["B"] * 20}, index=map(str, range(60)))
    for name in ("pred", "real"):
        X = np.log1p(chance.poisson(3.0, (60, 8))).astype(np.float32)
        anndata.AnnData(X, obs, pd.DataFrame(index=[f"g{i}" for i in range(8)])).write_h5ad(
            home / f"{name}.h5ad"
        )
    lint = ["lint", home / "split.toml", "--data", home / "table.csv"]
    cells = ["--real", home / "real.h5ad", "--pert-col", "drug", "--control-pert", "c"]
    quick = ["--profile", "pds", "--no-scores"]
    tables = ["--user", home / "user.csv", "--baseline", home / "baseline.csv"]
    adata = tiny_source / "L01.h5ad"
    return {
        "infer": lambda out: ["infer", "--model", model, "--adata", adata, "--out", out],
        "import": lambda out: ["import", home / "missing.ckpt", "--out", out],
        "json": lambda out: [*lint, "--json", out],
        "picture": lambda out: [*lint, "--picture", out],
        "score": lambda out: ["score", *tables, "--out", out],
        "evaluate": lambda out: [
            *("evaluate", "--pred", home / "pred.h5ad", *cells, *quick, "--out", out.parent)
        ],
    }


OUT = {
    "infer": "predicted.h5ad",
    "import": "model",
    "json": "lint.json",
    "picture": "split.svg",
    "score": "score.csv",
    "evaluate": "scores/results.csv",
}


def _file(path: Path, outside: Path) -> None:
    path.write_bytes(PRECIOUS)


def _json(path: Path, outside: Path) -> None:
    path.write_text('{"mine": 1}')


def _directory(path: Path, outside: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_bytes(PRECIOUS)


def _link(path: Path, outside: Path) -> None:
    outside.write_bytes(PRECIOUS)
    path.symlink_to(outside)


def _pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def _hard_link(path: Path, outside: Path) -> None:
    outside.write_bytes(PRECIOUS)
    path.hardlink_to(outside)


def snapshot(root: Path) -> dict[str, object]:
    """Content of all files below a directory; kind of all else."""
    return {
        path.relative_to(root).as_posix(): (
            path.read_bytes() if path.is_file() else (path.is_dir(), path.is_symlink())
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("put", [_file, _json, _directory, _link, _pipe, _hard_link])
def test_what_a_user_has_stays(
    run: Run,
    commands: dict[str, Callable[[Path], list]],
    tmp_path: Path,
    name: str,
    put: Callable[[Path, Path], None],
) -> None:
    out = tmp_path / "mine" / OUT[name]
    out.parent.mkdir(parents=True)
    put(out, tmp_path / "outside")
    before = snapshot(tmp_path)
    for force in ([], ["--force"]):
        code, error = run(*commands[name](out), *force)
        assert code == 1
        assert str(out) in error
        assert "fix:" in error
        assert "Traceback" not in error
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in OUT if name != "import"])
def test_an_earlier_output_is_replaced_when_asked_for(
    run: Run, commands: dict[str, Callable[[Path], list]], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "mine" / OUT[name]
    found, error = run(*commands[name](out))
    assert not error
    first = out.read_bytes()
    code, error = run(*commands[name](out))
    assert code == 1
    assert "exists already" in error
    assert "--force" in error
    assert out.read_bytes() == first
    again, error = run(*commands[name](out), "--force")
    assert (again, error) == (found, "")
    assert out.read_bytes() == first
    assert not list(tmp_path.rglob(".*"))


def test_the_input_is_never_the_output(
    run: Run, commands: dict[str, Callable[[Path], list]], tmp_path: Path
) -> None:
    out = tmp_path / "predicted.h5ad"
    assert run(*commands["infer"](out))[0] == 0
    (tmp_path / "again.h5ad").hardlink_to(out)
    before = snapshot(tmp_path)
    arguments = [str(x) for x in commands["infer"](tmp_path / "again.h5ad")]
    arguments[arguments.index("--adata") + 1] = str(out)
    code, error = run(*arguments, "--force")
    assert code == 1
    assert "--out is the input file" in error
    assert snapshot(tmp_path) == before


def test_simulated_cells_replace_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "L03.h5ad").write_bytes(PRECIOUS)
    code, error = run("simulate", tmp_path)
    assert code == 1
    assert "L03.h5ad" in error
    assert snapshot(tmp_path) == {"L03.h5ad": PRECIOUS}


def test_models_are_recognised(model: Path, tmp_path: Path) -> None:
    assert outputs.is_model(model)
    assert not outputs.is_model(tmp_path)
    for text in ("{", "[]", '{"format": 1}', "[" * 5000):
        (tmp_path / "model.json").write_text(text)
        assert not outputs.is_model(tmp_path)
