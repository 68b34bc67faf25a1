"""Read untrusted torch and pickle files without running their code, in bounded memory."""

from __future__ import annotations

import contextlib
import math
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from statetx.core.documents import check_zip, zip_entries
from statetx.core.errors import ModelError, StatetxError
from statetx.models.imported import pickles

ALLOWED: list[Any] = [
    *(nn.MSELoss, np.dtype, np.ndarray, *(type(np.dtype(kind)) for kind in "?bBhHiIlLefdUS")),
    *(
        (made.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, made in (("scalar", np.str_("")), ("_reconstruct", np.empty(0)))
    ),
]
"""Types that torch may create in addition to tensors and plain values.

`pickles` checks the amount of values first. State's labels are numpy strings.
"""
SAFE = "save the state_dict and hyper_parameters alone in a trusted environment"
AGAIN = "copy it again"
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First pickle of a file of torch before 1.6, which is a number."""
BYTES = {
    **{"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2},
    **{"LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1},
    **{"BoolStorage": 1, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16},
}
SPARE = 64 * 2**20
"""Bytes. Tensors that share numbers may take this and 8 times the size of the file."""
PREFIX = re.compile(r"((?:_orig_mod\.|module\.|model\.)+)pert_encoder\.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint without running code of the file.

    Parameters
    ----------
    path
        The checkpoint.

    Raises
    ------
    ModelError
        The file is missing, truncated, not a checkpoint, or contains objects that are not allowed.
    """
    content = read_torch(path, "the checkpoint")
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ModelError(
            "this is not a Lightning checkpoint: it has no state_dict",
            where=path,
            fix="give a .ckpt that State's training wrote, or its run directory",
        )
    return content | {"state_dict": plain_names(content["state_dict"], path)}


def plain_names(tensors: Mapping[Any, Any], where: object) -> dict[str, Any]:
    """Return tensors without prefixes of wrappers: ``_orig_mod.``, ``module.``, ``model.``.

    Parameters
    ----------
    tensors
        Tensors by name.
    where
        Path of the file, for messages.

    Raises
    ------
    ModelError
        A name is not text, or two names are equal without prefixes.
    """
    if not all(isinstance(name, str) for name in tensors):
        raise ModelError("the state_dict has names that are not text", where=where, fix=AGAIN)
    match = next(filter(None, map(PREFIX.match, tensors)), None)
    prefix = match[1] if match else ""
    out = {
        name.removeprefix(prefix).replace("._orig_mod.", "."): value
        for name, value in tensors.items()
    }
    if len(out) < len(tensors):
        raise ModelError(
            f"the state_dict has the same tensor names with and without the prefix {prefix!r}",
            where=where,
            fix="save the state_dict of a single model",
        )
    return out


@contextlib.contextmanager
def described(where: object) -> Iterator[None]:
    """Convert errors from settings of unexpected types to one kind of error.

    Parameters
    ----------
    where
        Path of the file, for messages.

    Raises
    ------
    ModelError
        The block failed on a setting or tensor.
    """
    try:
        yield
    except StatetxError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError) as error:
        raise _odd(error, where) from error
    except (RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise _odd(error, where) from error


def _odd(error: Exception, where: object) -> ModelError:
    why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return ModelError(
        f"its settings or tensors do not describe a State model ({why})",
        where=where,
        fix="use a checkpoint and run directory as State's training wrote them",
    )


def read_torch(path: Path, what: str) -> Any:
    """Read tensors and plain values from a file that torch saved; other objects are refused.

    Parameters
    ----------
    path
        The file.
    what
        Words for the file, for messages.

    Raises
    ------
    ModelError
        The file is missing, damaged, of another format, claims more values than it has, or contains
        another object.
    """
    try:
        mapped = _check(path)
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickles.Refused as error:
        raise ModelError(
            f"{what} contains an object that could run code: {error}",
            where=path,
            fix=f"{SAFE}: only tensors, plain values and MSELoss are read",
        ) from error
    except OSError as error:
        raise ModelError(
            f"cannot read {what}: {error.strerror or error}", where=path, fix="correct the path"
        ) from error
    except Exception as error:  # damaged bytes can make torch.load raise any error
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ModelError(
            f"cannot read {what}: {why}", where=path, fix=f"{AGAIN}, or {SAFE}"
        ) from error


def _check(path: Path) -> bool:
    """Check a file before torch reads it; return whether it can be mapped."""
    with path.open("rb") as file:
        start = file.read(64)
        if start.startswith(b"PK"):
            _check_new(path)
            return True
        if start.startswith(OLD_FORMAT):
            file.seek(len(OLD_FORMAT))
            _check_old(_Bounded(file, path.stat().st_size))
            return False
    others = {
        b"\x89HDF": "it is an HDF5 file",
        b"version https://git-lfs": "it is a Git LFS pointer; fetch the file with git lfs pull",
        b"\x80": "it is a pickle that torch.save did not write",
        b"<": "it is a web page: the download failed",
    }
    why = next((text for sign, text in others.items() if start.startswith(sign)), None)
    if start[8:10] == b'{"':
        why = "it is a safetensors file; give the .ckpt"
    if why is None and start and tarfile.is_tarfile(path):
        why = "it was saved by torch 0.1; save it again with a newer torch"
    raise ValueError(why or ("it is not a file of torch" if start else "it is empty"))


def _check_new(path: Path) -> None:
    """Check the entries of a zip file of torch 1.6 or newer, then its pickle."""
    sizes = {entry.filename: entry.file_size for entry in zip_entries(path)}
    if any(re.fullmatch(r"[^/]*/(constants\.pkl|code/.*)", name) for name in sizes):
        raise ValueError("it is a TorchScript archive; save the checkpoint with torch.save")
    entries = [name for name in sizes if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(entries) != 1:
        raise ValueError("it is a zip file, but torch.save did not write it")
    check_zip(path)
    if sizes[entries[0]] > pickles.MAX_BYTES:
        raise ValueError(f"its part {entries[0]} has more than {pickles.MAX_BYTES:,} bytes")
    home = entries[0].removesuffix("data.pkl")
    with zipfile.ZipFile(path) as file:
        data = file.read(entries[0])

    def held(key: str) -> int:
        if f"{home}data/{key}" not in sizes:
            raise ValueError(f"its part data/{key} is missing")
        return sizes[f"{home}data/{key}"]

    pickles.read(data, *_Tensors(path.stat().st_size, held).rules())


def _check_old(file: _Bounded) -> None:
    """Check a file of torch before 1.6, after its first number: version, machine, instructions."""
    for _ in range(2):
        pickles.read(file, {})  # type: ignore[arg-type]
    left = file.size

    def held(_: str) -> int:
        return left

    pickles.read(file, *_Tensors(file.size, held).rules())  # type: ignore[arg-type]


class _Bounded:
    """A file that refuses to read more bytes than it contains."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.size = file, size

    def read(self, n: int) -> bytes:
        if n > self.size:
            raise ValueError("it is truncated or damaged")
        return self._file.read(n)

    def readline(self) -> bytes:
        return self._file.readline(2**16)

    def tell(self) -> int:
        return self._file.tell()


class _Tensors:
    """A check that pickled tensors do not claim more numbers than the file contains."""

    def __init__(self, size: int, held: Callable[[str], int]) -> None:
        self._size, self._held = size, held
        self._storages: dict[str, int] = {}
        self._used = 0

    def rules(self) -> tuple[pickles.Calls, Callable[[Any], Any]]:
        """Return the names that are allowed, and the function that finds numbers."""
        kinds = (str(x) for x in vars(torch).values() if isinstance(x, torch.dtype))
        calls: dict[str, Callable[..., Any] | None] = {
            **pickles.PLAIN,
            **dict.fromkeys(kinds),
            **{f"torch.{name}": None for name in BYTES},
            "torch.storage.UntypedStorage": None,
            "torch.Size": tuple,
            "torch.device": lambda *given: given,
            "torch.nn.modules.loss.MSELoss": pickles.Opaque,
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
            "torch._tensor._rebuild_from_type_v2": self.attributed,
            "torch.Tensor": None,
            "torch.nn.parameter.Parameter": None,
        }
        return calls, self.storage

    def attributed(self, function: str, kind: str, given: Any, state: Any) -> Any:
        """Check a tensor with attributes."""
        if function not in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"):
            raise pickles.Refused(str(function)[:80])
        return self.tensor(*given)

    def storage(self, given: Any) -> tuple[int, int]:
        """Return the number of values of a storage and the bytes per value."""
        if isinstance(given, tuple) and given[:1] == ("module",):  # only in files before torch 1.6
            raise pickles.Refused(f"{str(given[1])[:80]}, with its source")
        word, kind, key, _, n, *view = given
        if word != "storage" or any(part is not None for part in view):
            raise ValueError("it contains numbers in an unsupported form")
        bytes_of = BYTES.get(str(kind).removeprefix("torch."), 1)
        if type(n) is not int or n < 0 or n * bytes_of > self._held(str(key)):
            raise ValueError(f"a tensor claims {n} values, more than the file contains")
        self._storages[str(key)] = n * bytes_of
        if sum(self._storages.values()) > self._size:
            raise ValueError("its tensors claim more values than the file contains")
        return n, bytes_of

    def tensor(
        self, storage: tuple[int, int], offset: int, size: Any, stride: Any, *_: Any
    ) -> pickles.Opaque:
        """Check offset and shape of a tensor."""
        n, bytes_of = storage
        numbers = [offset, *size, *stride]
        if len(size) != len(stride) or not all(type(x) is int and x >= 0 for x in numbers):
            raise ValueError(f"a tensor has the shape {str(size)[:80]}")
        values = math.prod(size)
        last = offset + sum((a - 1) * b for a, b in zip(size, stride, strict=True))
        if (values and last >= n) or (not values and max(size) > pickles.LARGEST_KEY):
            raise ValueError(f"a tensor of the shape {str(size)[:80]} has {n:,} values")
        self._used += values * bytes_of
        if self._used > 8 * self._size + SPARE:
            raise ValueError("its tensors repeat the values of the file too often")
        return pickles.Opaque()


def read_map(path: Path) -> dict[str, Any]:
    """Read a map of labels to vectors from a file that torch saved, without running its code.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ModelError
        The file cannot be read, or does not contain a map.
    """
    content = read_torch(path, "this map")
    if not isinstance(content, Mapping):
        raise ModelError(
            f"this is not a map of labels, but a {type(content).__name__}", where=path, fix=AGAIN
        )
    return {str(key): value for key, value in content.items()}


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of plain values; {} if there is no file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ModelError
        The file is damaged, or contains an object that could run code.
    """
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            content = pickles.read(file.read(pickles.MAX_BYTES + 1), pickles.PLAIN)
    except Exception as error:  # instructions in the wrong order can raise any error
        why = (
            f"it contains {error}, which could run code"
            if isinstance(error, pickles.Refused)
            else error
        )
        raise ModelError(
            f"cannot read this file safely: {why or type(error).__name__}",
            where=path,
            fix="remove the file and give its content by options",
        ) from error
    return dict(content) if isinstance(content, dict) else {}
