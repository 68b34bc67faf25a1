"""JSON, YAML and TOML in every encoding; bombs, depth and long numbers are one error each."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from statetx.core.documents import (
    Wanted,
    check_size,
    check_zip,
    read_json,
    read_text,
    read_toml,
    read_yaml,
    source_texts,
)
from statetx.core.errors import ConfigError

WANTED = Wanted("the file", ConfigError, "correct it")
READERS: dict[str, tuple[Callable[..., Any], str]] = {
    "json": (read_json, '{"a": {"b": ["γ", "NO"]}}'),
    "yaml": (read_yaml, 'a:\r\n  b: ["γ", "NO"]\r\n'),
    "toml": (read_toml, '[a]\r\nb = ["γ", "NO"]\r\n'),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", READERS)
def test_every_encoding_is_read(tmp_path: Path, kind: str, encoding: str) -> None:
    reader, text = READERS[kind]
    (tmp_path / "x").write_bytes(text.encode(encoding))
    assert reader(tmp_path / "x", WANTED) == {"a": {"b": ["γ", "NO"]}}


def _laughs(n: int = 12) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, n)]
    return "\n".join(lines)


def _merges(n: int = 12) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, n)]
    return "\n".join(lines)


def _stairs() -> str:
    lines = ["a0: &a0 x"]
    return "\n".join(lines + [f"a{i}: &a{i} [[[[[*a{i - 1}]]]]]" for i in range(1, 40)])


HOSTILE: dict[str, tuple[str, str]] = {
    "yaml: aliases": ("yaml", _laughs()),
    "yaml: merges": ("yaml", _merges()),
    "yaml: depth by aliases": ("yaml", _stairs()),
    "yaml: an alias inside itself": ("yaml", "a: &a [*a]"),
    "yaml: no such alias": ("yaml", "a: *b"),
    "yaml: flow": ("yaml", "[" * 100_000),
    "yaml: flow, closed": ("yaml", "[" * 100_000 + "]" * 100_000),
    "yaml: blocks": ("yaml", "".join(f"{' ' * i}a:\n" for i in range(500))),
    "yaml: dashes": ("yaml", "- " * 50_000),
    "yaml: digits": ("yaml", "a: 1" + "0" * 5000),
    "yaml: a date": ("yaml", "a: 2021-02-31"),
    "yaml: an object": ("yaml", "a: !!python/object/apply:os.system [ls]"),
    "yaml: a list as key": ("yaml", "? [a]\n: b"),
    "yaml: control characters": ("yaml", "a: \x07"),
    "yaml: large": ("yaml", "# " + "x" * 5_000_000),
    "json: depth": ("json", "[" * 200_000),
    "json: depth, closed": ("json", "[" * 200_000 + "]" * 200_000),
    "json: digits": ("json", "1" + "0" * 5000),
    "json: nothing": ("json", ""),
    "toml: depth": ("toml", "a = " + "[" * 50_000),
    "toml: depth of tables": ("toml", ".".join("a" * 5000) + " = 1"),
    "toml: digits": ("toml", "a = 1" + "0" * 5000),
    "toml: twice": ("toml", "a = 1\na = 2"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_texts_are_one_error_at_once(tmp_path: Path, what: str) -> None:
    kind, text = HOSTILE[what]
    path = tmp_path / "x"
    path.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError, match="cannot read the file") as caught:
        READERS[kind][0](path, WANTED)
    assert time.process_time() - began < 10
    assert str(path) in str(caught.value.where)
    assert len(str(caught.value)) < 1500


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    names = []
    for number, (kind, text) in enumerate(HOSTILE.values()):
        names.append(f"{number}.{kind}")
        (tmp_path / names[-1]).write_text(text, encoding="utf-8")
    code = (
        "import resource, sys\nfrom statetx.core import documents as d\nfrom statetx.core.errors import ConfigError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "for path in sys.argv[1:]:\n"
        "    reader = getattr(d, 'read_' + path.split('.')[-1])\n"
        "    try: reader(path, d.Wanted('x', ConfigError, ''))\n"
        "    except ConfigError: continue\n"
        "    print('read', path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4 * 2**20


def test_few_aliases_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a: &a {x: 1, y: &b [2]}\nb: {<<: *a, z: *b}\n")
    assert read_yaml(tmp_path / "x", WANTED)["b"] == {"x": 1, "y": [2], "z": [2]}


def test_an_error_of_yaml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a: 1\nb: [1\nc: 2\n")
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "x", WANTED)
    assert str(caught.value.where).endswith("x, line 3")


def test_shared_values_count_at_each_use() -> None:
    value: Any = "x"
    for _ in range(10):
        value = [value, value]
    check_size(value)
    for _ in range(20):
        value = {"a": value, "b": value}
    with pytest.raises(ValueError, match="more than 1,000,000 values"):
        check_size(value)
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="contains itself"):
        check_size(value)


def test_values_are_found_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a: {b: [NO, 007]}\n1: 0x1F\n")
    found = source_texts(tmp_path / "x")
    assert found == {("a", "b", "0"): "NO", ("a", "b", "1"): "007", ("1",): "0x1F"}
    assert source_texts(tmp_path / "none") == {}


def test_missing_and_binary_files_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("a: café".encode("latin-1"))
    (tmp_path / "nul").write_bytes(b"a\0b")
    for path in (tmp_path / "none", tmp_path, tmp_path / "latin", tmp_path / "nul", "a\0b"):
        with pytest.raises(ConfigError, match="cannot read the file"):
            read_text(path, WANTED)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_files_that_unpack_to_more_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "fine.npz", a=np.arange(9))
    check_zip(tmp_path / "fine.npz")
    np.savez_compressed(tmp_path / "deflated.npz", a=np.zeros(10**6))
    with pytest.raises(ValueError, match="is compressed"):
        check_zip(tmp_path / "deflated.npz")
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as file:
        file.writestr("a.npy", b"1")
        file.writestr("a.npy", b"2")
    with pytest.raises(ValueError, match="the same name"):
        check_zip(tmp_path / "twice.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "fine.npz").read_bytes()[:50])
    with pytest.raises(ValueError, match="truncated or damaged"):
        check_zip(tmp_path / "half.npz")


def test_json_of_ours_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps({"a": [1.5, None]}))
    assert read_json(tmp_path / "x", WANTED) == {"a": [1.5, None]}
