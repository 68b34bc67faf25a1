"""Pickles and files of torch that would take memory or time, and those that people have."""

from __future__ import annotations

import collections
import io
import pickle
import resource
import struct
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from statetx.core.errors import ModelError
from statetx.models.imported import pickles
from statetx.models.imported.checkpoint_file import read_checkpoint, read_map, read_pickle

VALUES: dict[str, Any] = {
    "plain": [1, 2.5, None, True, "γ", b"", b"x", (1,), {3}, frozenset([4]), 2**40, -1],
    "fortran": np.arange(6).reshape(2, 3, order="F"),
    "text": np.array(["a", "γγ"]),
    "objects": np.array(["x", None], dtype=object),
    "empty": np.zeros((0,)),
    "big-endian": np.arange(3, dtype=">i4"),
    "scalars": [np.bool_(True), np.float64(1.5), np.str_("x"), np.float32(2)],
    "ordered": collections.OrderedDict(a=1),
    "shared": [shared := ["a"], shared, {"b": shared}],
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_are_read_from_every_protocol(protocol: int) -> None:
    found = pickles.read(pickle.dumps(VALUES, protocol), pickles.PLAIN)
    for key, value in VALUES.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            assert found[key].tolist() == value.tolist()
        else:
            assert found[key] == value


def _laughs(step: bytes, start: bytes, levels: int = 60) -> bytes:
    return (
        b"\x80\x04"
        + start
        + b"\x94"
        + b"".join(step.replace(b"#", bytes([i])) + b"\x94" for i in range(levels))
        + b"."
    )


def _array(shape: str, kind: str, data: str = "b''") -> bytes:
    """A pickle that calls numpy for an array of a shape."""
    lines = f"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n({shape}tS'b'\ntR"
    state = f"(I1\n({shape}tcnumpy\ndtype\n(S'{kind}'\ntRI00\n{data}tb."
    return (lines + state).encode()


BOMBS = {
    "a far place of the memo": b"\x80\x02N"
    + b"r"
    + struct.pack("<I", 2**32 - 1)
    + b"j"
    + b"\0\0\0\0.",
    "tuples of tuples as a key": b"\x80\x04}" + _laughs(b"h#h#\x86", b")")[2:-1] + b"Ns.",
    "lists of lists": _laughs(b"](h#h#h#h#h#h#h#h#h#h#e", b"]"),
    "a list that fills its parts later": b"\x80\x04]\x94]\x94h\x00h\x01ah\x01h\x00a.",
    "a list inside itself": b"\x80\x04]\x94h\x00a.",
    "deep": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep marks": b"(" * 1_000_000 + b".",
    "a number of 10 MB": b"\x80\x04\x8b"
    + struct.pack("<i", 10_000_000)
    + b"\x7f" * 10_000_000
    + b".",
    "a number of 5,000 digits": b"L" + b"9" * 5000 + b"L\n.",
    "a text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "many instructions": b"\x80\x04" + b"N0" * 2_000_000 + b"N.",
    "a large array": _array("I10000000000\n", "f8"),
    "an endless empty array": _array("I10000000000\nI0\n", "f8"),
    "wide text": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'U900000000'\ntRS''\ntR.",
    "bytes": b"cbuiltins\nbytes\n(I10000000000\ntR.",
    "bytearray": b"cbuiltins\nbytearray\n(I10000000000\ntR.",
    "zeros": b"cnumpy\nzeros\n(I10000000000\ntR.",
    "a module of numpy": b"cnumpy.f2py.diagnose\nrun\n(tR.",
    "nothing": b"",
    "no end": b"\x80\x04]",
    "an empty stack": b"\x80\x040.",
    "wrong order": b"\x80\x04Na.",
}
BOUND = 700 * 2**20
"""Bytes: Python with numpy and torch takes half of it."""


def _bounded(code: str, *arguments: object) -> str:
    """Run Python with little memory and time more than this process has; return what it prints."""
    before = "import resource, sys, torch\nimport statetx.models.imported.checkpoint_file as c\n"
    limit = "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    limit += f"resource.setrlimit(resource.RLIMIT_AS, (used + {BOUND},) * 2)\n"
    limit += "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
    done = subprocess.run(
        [sys.executable, "-c", before + limit + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < 4 * 2**30
    return done.stdout


def test_hostile_pickles_stay_small_and_short(tmp_path: Path) -> None:
    for number, data in enumerate(BOMBS.values()):
        (tmp_path / f"{number}.pkl").write_bytes(data)
    code = """
        import time, pathlib
        from statetx.core.errors import ModelError
        for number in range(int(sys.argv[2])):
            began = time.process_time()
            try:
                c.read_pickle(pathlib.Path(sys.argv[1]) / f"{number}.pkl")
                print("read", number)
            except ModelError as error:
                assert "cannot read this file safely" in error.what, error
            assert time.process_time() - began < 15, number
        print("done")
    """
    assert _bounded(code, tmp_path, len(BOMBS)) == "done\n"


def _saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def _with(path: Path, name: str, change: Any) -> Path:
    """Rewrite one entry of a file of torch."""
    with zipfile.ZipFile(path) as file:
        entries = {entry.filename: file.read(entry) for entry in file.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for entry, data in entries.items():
            file.writestr(entry, change(data) if entry.endswith(name) else data)
    return path


def _longer(said: bytes, end: bytes) -> Any:
    """Let a tensor of 4 values claim 2 billion."""

    def change(data: bytes) -> bytes:
        assert data.count(said) == 1
        return data.replace(said, b"J\xff\xff\xff\x7f" + end)

    return change


def _hostile(tmp_path: Path) -> dict[str, Path]:
    """Files of torch that claim more than they hold."""
    tensor = torch.arange(4.0)
    made = {}
    for name, content in {
        "expanded": {"a": tensor[:1].expand(10**6, 10**5)},
        "often": {"a": [tensor[:1].expand(10**7 + i) for i in range(50)]},
        "meta": {"a": torch.empty(10**12, device="meta")},
        "sparse": {"a": torch.sparse_coo_tensor([[0]], [1.0], (10**12,))},
    }.items():
        made[name] = _saved(content, tmp_path / f"{name}.pt")
    made["longer"] = _with(
        _saved({"a": tensor}, tmp_path / "longer.pt"), "data.pkl", _longer(b"K\x04t", b"t")
    )
    for name in ("deflated", "twice"):
        made[name] = tmp_path / f"{name}.pt"
        with zipfile.ZipFile(made[name], "w", zipfile.ZIP_DEFLATED) as file:
            kind = zipfile.ZIP_DEFLATED if name == "deflated" else zipfile.ZIP_STORED
            for _ in range(1 if name == "deflated" else 2):
                file.writestr("archive/data.pkl", bytes(10**8 if name == "deflated" else 10), kind)
    made["old and long"] = _saved(
        {"a": tensor}, tmp_path / "o.pt", _use_new_zipfile_serialization=False
    )
    longer = _longer(b"K\x04Nt", b"Nt")(made["old and long"].read_bytes())
    made["old and long"].write_bytes(longer)
    for name, data in {
        "bytearray": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "FloatTensor": b"\x80\x02ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R.",
        "UntypedStorage": b"\x80\x02ctorch.storage\nUntypedStorage\nJ\xff\xff\xff\x7f\x85R.",
        "deep": b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
    }.items():
        path = _saved({"a": tensor}, tmp_path / f"{name}.pt")
        made[name] = _with(path, "data.pkl", lambda _, data=data: data)
    return made


@pytest.mark.filterwarnings("ignore:Duplicate name", "ignore:Sparse")
def test_hostile_files_of_torch_stay_small_and_short(tmp_path: Path) -> None:
    made = _hostile(tmp_path)
    code = """
        import time, pathlib
        from statetx.core.errors import ModelError
        for path in sys.argv[1:]:
            began = time.process_time()
            try:
                c.read_torch(pathlib.Path(path), "the map")
                print("read", path)
            except ModelError as error:
                assert error.where == path
                assert "Weights only" not in error.what, error
            assert time.process_time() - began < 15, path
        print("done")
    """
    assert _bounded(code, *made.values()) == "done\n"


def test_files_of_old_torch_are_read(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "t": torch.randn(3, 4).T,
        "b": torch.arange(5, dtype=torch.bfloat16),
        "p": torch.nn.Parameter(torch.ones(2, 3).half()),
        "attributes": torch.ones(2),
    }
    tensors["attributes"].note = "x"
    tensors["p"].note = "x"
    content = {
        "state_dict": collections.OrderedDict(tensors),
        "hyper_parameters": {"x": np.str_("γ")},
    }
    for new in (True, False):
        path = _saved(content, tmp_path / f"{new}.ckpt", _use_new_zipfile_serialization=new)
        found = read_checkpoint(path)
        assert found["hyper_parameters"] == {"x": "γ"}
        for name, value in tensors.items():
            torch.testing.assert_close(found["state_dict"][name], value)


OTHERS = {
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "torch.save did not write": pickle.dumps({"state_dict": {}}, 4),
    "web page": b"<!DOCTYPE html>",
    "safetensors": struct.pack("<Q", 10) + b'{"a":{}}  ',
    "is empty": b"",
    "not a file of torch": b"hello, this is text",
    "truncated or damaged": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_files_are_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(OTHERS[what])
    with pytest.raises(ModelError, match=what):
        read_checkpoint(path)


def test_scripts_and_other_zips_are_named(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "s.pt")
    with pytest.raises(ModelError, match="TorchScript"):
        read_checkpoint(tmp_path / "s.pt")
    np.savez(tmp_path / "n.npz", a=np.arange(3))
    with pytest.raises(ModelError, match=r"torch\.save did not write"):
        read_checkpoint(tmp_path / "n.npz")
    with pytest.raises(ModelError, match="not a map of labels"):
        read_map(_saved([1], tmp_path / "l.pt"))
    with pytest.raises(ModelError, match="no state_dict"):
        read_checkpoint(_saved({"a": 1}, tmp_path / "m.pt"))


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("new", [True, False])
def test_truncated_files_are_one_error(tmp_path: Path, cut: float, new: bool) -> None:
    path = _saved(
        {"state_dict": {"a": torch.randn(100)}},
        tmp_path / "x.ckpt",
        _use_new_zipfile_serialization=new,
    )
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ModelError, match="cannot read the checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda n: f"_orig_mod.{n}", None),
        (lambda n: f"module.{n}", None),
        (lambda n: f"model._orig_mod.module.{n}", None),
        (lambda n: n.replace("encoder.", "encoder._orig_mod."), None),
        (lambda n: n, None),
    ],
)
def test_prefixes_of_wrappers_are_understood(tmp_path: Path, before: Any, after: Any) -> None:
    names = ["pert_encoder.0.weight", "project_out.0.weight", "model_x"]
    content = {"state_dict": {before(name): torch.zeros(1) for name in names}}
    assert list(read_checkpoint(_saved(content, tmp_path / "x.ckpt"))["state_dict"]) == names


def test_names_that_become_one_are_refused(tmp_path: Path) -> None:
    content = {
        "state_dict": {n: torch.zeros(1) for n in ("model.pert_encoder.0", "pert_encoder.0")}
    }
    with pytest.raises(ModelError, match=r"with and without the prefix 'model\."):
        read_checkpoint(_saved(content, tmp_path / "x.ckpt"))


def test_a_pickle_that_is_no_dictionary_says_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump([1], buffer)
    (tmp_path / "x.pkl").write_bytes(buffer.getvalue())
    assert read_pickle(tmp_path / "x.pkl") == {}
