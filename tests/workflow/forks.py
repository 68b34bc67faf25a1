"""Snakemake in forks of one process that has loaded it and what it needs, but nothing of statetx.

A dry run of the tiny road takes 1.2 s of processor time in a fork, 3 s in a Python of its own. A
fork is otherwise the same call: its own directory, arguments, copied library and exit code.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any


def snakemake(home: Path, *arguments: str) -> tuple[int, str]:
    """Run snakemake in `home` with the library that was copied there; return exit code and output."""
    parent = _parent()
    assert parent.stdin is not None
    assert parent.stdout is not None
    print(json.dumps([str(home), *arguments]), file=parent.stdin, flush=True)
    code, text = json.loads(parent.stdout.readline())
    return code, text


@cache
def _parent() -> subprocess.Popen[str]:
    """Start the process that forks; it ends when its input is closed: with this one, at the latest."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    parent = subprocess.Popen([sys.executable, __file__], text=True, **pipes)
    atexit.register(parent.communicate)
    return parent


def _become(home: str, *arguments: str) -> None:
    """Make the call; does not return."""
    os.chdir(home)
    library = str(Path(home) / "src")
    os.environ["PYTHONPATH"] = library
    sys.path.insert(0, library)
    sys.argv = ["snakemake", *arguments]
    cli.main()


def _serve() -> None:
    """For every line with directory and arguments: fork, answer with exit code and output."""
    for line in sys.stdin:
        words, end = os.pipe()
        if (child := os.fork()) == 0:
            os.close(words)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(end, 1)
            os.dup2(end, 2)
            _become(*json.loads(line))
        os.close(end)
        with open(words) as said:
            text = said.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), text]), flush=True)


if __name__ == "__main__":
    # What the rules import through statetx, and the plug-ins that snakemake looks for as it starts.
    import anndata  # noqa: F401
    import h5py  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    from snakemake import cli

    cli.get_argument_parser()
    assert "statetx" not in sys.modules
    sys.path.remove(str(Path(__file__).parent))
    _serve()
