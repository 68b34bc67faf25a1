import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from statetx.cli.main import _dashed

COMMANDS = [
    "simulate", "inspect", "pack", "split", "train", "predict", "reference", "evaluate-run",
    "verdict", "report", "evaluate", "score", "infer", "prune", "show",
]  # fmt: skip


def statetx(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "statetx", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = statetx(command, "--help")
    assert done.returncode == 0
    assert f"Example: statetx {command}" in " ".join(done.stdout.split())


def test_help_imports_nothing_heavy():
    code = (
        "import sys; import statetx.cli.main; "
        "print([m for m in ('torch', 'lightning', 'pandas', 'numba', 'matplotlib', 'anndata') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_wrong_use_exits_with_2():
    assert statetx("train").returncode == 2
    done = statetx("train", "--config", "config/config.yaml", "--run", "demo")
    assert done.returncode == 2
    assert "DATASET/SPLIT/MODEL/SEED" in done.stderr


def test_wrong_names_exit_with_1_and_the_nearest_one():
    done = statetx("train", "--config", "config/config.yaml", "--run", "demo/dc20/pertset/0")
    assert done.returncode == 1
    assert "did you mean 'pertsets'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluate_wants_predictions_or_a_ceiling():
    cells = ["--real", "r.h5ad", "--pert-col", "drug", "--control-pert", "c", "--out", "o"]
    done = statetx("evaluate", *cells)
    assert done.returncode == 2
    assert "give --pred, or --ceiling" in done.stderr
    done = statetx("evaluate", *cells, "--ceiling", "--real-de", "de.csv")
    assert done.returncode == 2
    assert "--real-de and --pred-de need --pred" in done.stderr


def test_tables_are_scored_against_a_baseline(tmp_path):
    for name, error in (("user", 1), ("baseline", 4)):
        (tmp_path / f"{name}.csv").write_text(f"statistic,mse\nmean,{error}\n")
    files = [str(tmp_path / name) for name in ("user.csv", "baseline.csv", "score.csv")]
    done = statetx("score", "--user", files[0], "--baseline", files[1], "--out", files[2])
    assert done.stdout.startswith("avg_score 0.7500")
    assert Path(files[2]).read_text() == "metric,from_baseline\nmse,0.75\navg_score,0.75\n"


def test_seed_must_be_one_of_the_configuration():
    done = statetx("train", "--config", "config/config.yaml", "--run", "demo/dc20/pertsets/zero")
    assert done.returncode == 1
    assert "has no 'zero'" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_asks_which_of_several_data_sets(tmp_path):
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    config["datasets"]["other"] = config["datasets"]["demo"]
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(config))
    done = statetx("inspect", "pyproject.toml", "--config", str(path))
    assert done.returncode == 1
    assert "there are several data sets: choose one" in done.stderr


def test_underscores_are_understood():
    assert _dashed("--pert_col") == "--pert-col"
    assert _dashed("--pert_col=drug_dose") == "--pert-col=drug_dose"
    assert _dashed("some_file.h5ad") == "some_file.h5ad"
    done = statetx("train", "--config", "config/config.yaml", "--run=a")
    assert done.returncode == 2


def test_a_locale_without_our_letters_is_no_error():
    code = (
        "import sys\nfrom statetx.cli import main as cli\n"
        "cli.app.command(name='say')(lambda: print('5 µM …'))\n"
        "sys.argv = ['statetx', 'say']\ncli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "5 \\xb5M \\u2026\n")
