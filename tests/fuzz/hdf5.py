"""Changes of the structure of an h5ad file: attributes, types, lengths, codes, links, nesting."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import damage
import h5py
import numpy as np

ENCODINGS = (
    *("array", "string-array", "categorical", "dataframe", "dict", "csr_matrix", "csc_matrix"),
    *(
        "nullable-integer",
        "nullable-boolean",
        "nullable-string-array",
        "rec-array",
        "awkward-array",
    ),
    *("string", "numeric-scalar", "null", "raw", "anndata", "unheard-of"),
)
MISSPELT = (b"\xff\xfe\x80", b"gr\xfcn", b"\x82\xa0", b"")
"""Bytes that are not UTF-8."""


def in_h5ad(path: Path, rng: random.Random) -> str:
    """Change one object of an h5ad file; sometimes its bytes, or the file itself."""
    luck = rng.random()
    if luck < 0.08:
        return damage.in_bytes(path, rng)
    if luck < 0.10:
        return damage.whole_file(path, rng, "fifo")
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        ways = [_attribute, _attribute, _structure, _link]
        name = rng.choice(["/", *names])
        if isinstance(file[name], h5py.Dataset):
            ways += [_retype, _reshape, _values, _values, _layout]
        way = rng.choice(ways)
        said = way(file, name, rng)
    return f"{path.name}: {name}: {said}"


def _attribute(file: h5py.File, name: str, rng: random.Random) -> str:
    attrs = file[name].attrs
    known = list(attrs)
    key = rng.choice([*known, "encoding-type", "encoding-version", "shape", "categories"])
    how = rng.choice(["gone", "encoding", "value", "value", "value"])
    if how == "gone" and key in attrs:
        del attrs[key]
        return f"attribute {key!r} gone"
    new = rng.choice(ENCODINGS) if how == "encoding" else _attribute_value(rng)
    attrs.pop(key, None)
    attrs[key] = new
    return f"attribute {key!r} = {str(new)[:40]}"


def _attribute_value(rng: random.Random) -> Any:
    return rng.choice(
        [
            *(
                "",
                "0.1.0",
                0,
                -1,
                1.5,
                True,
                b"csr_matrix",
                "x" * 60_000 if rng.random() < 0.1 else "x",
            ),
            *(
                np.bytes_(b"\xff\xfe"),
                h5py.Empty("f"),
                np.array([10**15, 10**15]),
                np.array([-1, 5]),
            ),
            *(np.array([3]), np.array([2, 3, 4]), np.array([0, 0]), np.array([1.5, np.nan])),
            *(np.array(["a", "b"], dtype=object), np.zeros((2, 2)), np.array([], dtype=np.int64)),
        ]
    )


def _structure(file: h5py.File, name: str, rng: random.Random) -> str:
    if name == "/":
        new = rng.choice(["raw", "layers/counts", "obs/extra", "uns/deep"])
        file.require_group(new)
        return f"an empty group {new}"
    how = rng.choice(["gone", "renamed", "a group", "a dataset", "deep"])
    if how == "renamed":
        file.move(name, name + rng.choice(["_", " ", "/x", "\u0301", "." * 200]))
        return how
    if how == "deep":
        file.move(name, "aside")
        place = name + "/x" * 50
        file.create_group(place)
        file.move("aside", place + "/y")
        return how
    del file[name]
    if how == "a group":
        file.create_group(name)
    elif how == "a dataset":
        file[name] = rng.choice([0, 1.5, "text", [1, 2, 3], [[1.0, 2.0]], h5py.Empty("f")])
    return how


def _link(file: h5py.File, name: str, rng: random.Random) -> str:
    if name == "/":
        return _attribute(file, name, rng)
    names: list[str] = []
    file.visit(names.append)
    how = rng.choice(["soft to nothing", "soft loop", "external", "another", "hard loop"])
    parent = name.rsplit("/", 1)[0] if "/" in name else "/"
    other = rng.choice(names)
    if how == "another" and (other.startswith(name) or name.startswith(other)):
        how = "soft to nothing"
    if how == "another":
        target = file[other]
        del file[name]
        file[name] = target
        return f"a link to {other}"
    del file[name]
    if how == "soft to nothing":
        file[name] = h5py.SoftLink("/no/where")
    elif how == "soft loop":
        file[name] = h5py.SoftLink("/" + name)
    elif how == "external":
        file[name] = h5py.ExternalLink(rng.choice(["gone.h5", "/dev/null", "."]), "/X")
    else:
        file[name] = file[parent]
    return f"a link, {how}"


def _replace(file: h5py.File, name: str, data: Any, **options: Any) -> None:
    attrs = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=data, **options)
    for key, item in attrs.items():
        file[name].attrs[key] = item


def _retype(file: h5py.File, name: str, rng: random.Random) -> str:
    data = file[name][()]
    text = np.asarray(data).dtype.kind in "OS"
    to = ["text", "bytes", "misspelt", "fixed"] if text else ["text"]
    to += ["i1", "u1", ">i4", "<u8", "f2", ">f8", "bool", "c16", "compound", "enum", "vlen"]
    how = rng.choice(to)
    array = np.asarray(data)
    flat = array.ravel()
    words = [
        item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in flat
    ]
    if how == "text":
        new: Any = np.array(words, dtype=object).reshape(array.shape)
        _replace(file, name, new, dtype=h5py.string_dtype())
    elif how in ("bytes", "misspelt", "fixed"):
        raw = [word.encode() for word in words]
        if how == "misspelt" and raw:
            raw[rng.randrange(len(raw))] = rng.choice(MISSPELT)
        _replace(file, name, np.array(raw, dtype="S" if raw else "S1").reshape(array.shape))
    elif how == "compound":
        _replace(file, name, np.zeros(array.shape, dtype=[("a", "i4"), ("b", "f4")]))
    elif how == "enum":
        kind = h5py.enum_dtype({"a": 0, "b": 1}, basetype="i1")
        _replace(file, name, np.zeros(array.shape, dtype="i1"), dtype=kind)
    elif how == "vlen":
        attrs = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, array.shape, dtype=h5py.vlen_dtype(np.int32))
        file[name].attrs.update(attrs)
    else:
        with np.errstate(all="ignore"):
            new = np.arange(array.size).reshape(array.shape) if text else array
            _replace(file, name, new.astype(how))
    return f"as {how}"


def _reshape(file: h5py.File, name: str, rng: random.Random) -> str:
    array = np.asarray(file[name][()])
    if array.ndim == 0:
        _replace(file, name, [array[()]] * rng.choice((0, 1, 3)))
        return "scalar to vector"
    how = rng.choice(["shorter", "longer", "empty", "2-d", "scalar", "turned", "endless"])
    if how == "shorter":
        new = array[: len(array) // 2] if rng.random() < 0.5 else array[:-1]
    elif how == "longer":
        new = np.concatenate([array, array[-1:]])
    elif how == "empty":
        new = array[:0]
    elif how == "2-d":
        new = array[..., None]
    elif how == "turned":
        new = array.T if array.ndim > 1 else array[::-1]
    elif how == "scalar":
        new = array.ravel()[0] if array.size else array
    else:
        attrs, kind = dict(file[name].attrs), file[name].dtype
        shape = (10**11, *array.shape[1:])
        del file[name]
        file.create_dataset(name, shape, dtype=kind, chunks=(1000, *array.shape[1:]))
        file[name].attrs.update(attrs)
        return "endless, nothing written"
    kind = file[name].dtype
    _replace(file, name, new, dtype=kind)
    return how


def _values(file: h5py.File, name: str, rng: random.Random) -> str:
    dataset = file[name]
    array = np.asarray(dataset[()])
    if array.size == 0 or array.ndim == 0:
        return _retype(file, name, rng)
    flat = array.ravel().copy()
    at = rng.randrange(flat.size)
    if array.dtype.kind in "OS":
        word = rng.choice([damage.words(rng).replace("\0", ""), flat[rng.randrange(flat.size)]])
        flat[at] = word
        _replace(file, name, flat.reshape(array.shape), dtype=dataset.dtype)
        return f"value {at} = {word[:20]!r}"
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        new = rng.choice(
            [info.min, info.max, 0, int(flat.max()) + 1, int(flat[rng.randrange(flat.size)])]
        )
        new = min(new, info.max)
    elif array.dtype.kind == "f":
        new = rng.choice([np.nan, np.inf, -1.0, -1e-7, 1e30, 0.5, 20.0])
    else:
        new = not flat[at]
    if rng.random() < 0.2:
        flat[:] = flat[::-1].copy()
        said = "values turned round"
    else:
        flat[at] = new
        said = f"value {at} = {new}"
    dataset[()] = flat.reshape(array.shape)
    return said


def _layout(file: h5py.File, name: str, rng: random.Random) -> str:
    """Store the same values in another way: the result must be the same."""
    dataset = file[name]
    array, kind = dataset[()], dataset.dtype
    if np.ndim(array) == 0 or np.size(array) == 0:
        return _retype(file, name, rng)
    how = rng.choice(["gzip", "lzf", "chunks", "big-endian", "fletcher", "wider"])
    options: dict[str, Any] = {
        "gzip": {"compression": "gzip"},
        "lzf": {"compression": "lzf"},
        "chunks": {"chunks": True, "maxshape": (None,) * np.ndim(array)},
        "fletcher": {"fletcher32": True},
    }.get(how, {})
    if how == "big-endian" and kind.kind in "iuf":
        kind = kind.newbyteorder(">")
    elif how == "wider" and kind.kind in "iuf":
        kind = np.dtype("f8") if kind.kind == "f" else np.dtype("i8")
    _replace(file, name, array, dtype=kind, **options)
    return f"layout {how}"
