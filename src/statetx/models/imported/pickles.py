"""Read a pickle safely, by interpreting its instructions without running code of the file.

Python's reader needs 5.7 GB for 50 bytes that name a high position of its memo, and it calls any
function that a file names. This reader needs memory in proportion to the file. It calls functions
of this package only, for a closed list of names. It limits instructions, nesting, and values
(counted at each use).
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

import numpy as np

MAX_BYTES = 256 * 2**20
MAX_INSTRUCTIONS = 3_000_000
"""About ten seconds. A map of 20,000 labels has half a million instructions."""
MAX_SIZE = 20_000_000
"""Number of values; 16 characters or bytes of text count as another value."""
MAX_DEPTH = 60
LARGEST_KEY = 100

Calls = Mapping[str, Callable[..., Any] | None]
"""Names that a pickle may contain, and the function for each call; None: calls are refused."""

CONSTANTS = frozenset(
    {"NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT"}
    | {"BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"}
    | {"SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Refused(ValueError):
    """An error for a name in a pickle that is not on the list."""


class Name(str):
    """The name of a function or class, never the function or class itself."""


class Opaque:
    """An object whose content is not used."""

    def build(self, state: Any) -> Opaque:
        """Ignore the content."""
        return self


class _Item:
    """A value with its total size, its depth, and whether it may still grow."""

    __slots__ = ("closed", "depth", "size", "value")

    def __init__(self, value: Any, inside: Iterable[_Item] = ()) -> None:
        self.value = value
        self.size = 1 + (len(value) >> 4 if isinstance(value, str | bytes | bytearray) else 0)
        self.depth, self.closed = 0, False
        self.hold(inside)

    def hold(self, inside: Iterable[_Item]) -> None:
        if self.closed:
            raise ValueError("a value grows after it was used, or contains itself")
        for item in inside:
            self.size += item.size
            self.depth = max(self.depth, item.depth + 1)
        if self.size > MAX_SIZE:
            raise ValueError(f"it contains more than {MAX_SIZE:,} values")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def read(
    source: bytes | IO[bytes],
    calls: Calls,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Return the value of a pickle.

    Parameters
    ----------
    source
        The pickle, or a file at the start of a pickle. The file is then read up to its end.
    calls
        Names that the pickle may contain.
    persistent
        Function for values outside of the pickle (`torch.save` stores numbers there).

    Raises
    ------
    Refused
        The pickle contains another name.
    ValueError, TypeError, LookupError
        The pickle is damaged or too large.
    """
    if isinstance(source, bytes) and len(source) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    machine = _Machine(calls, persistent)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    for number, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if number > MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
        if instruction.name == "STOP":
            return machine.pop().value
        machine.step(instruction.name, argument)
    raise ValueError("it ends too early")


class _Machine:
    """The stack, the marks in it and the memo of a pickle that is being read."""

    def __init__(self, calls: Calls, persistent: Callable[[Any], Any] | None) -> None:
        self.calls, self.persistent = calls, persistent
        self.stack: list[_Item] = []
        self.below: list[list[_Item]] = []
        self.memo: dict[int, _Item] = {}

    def pop(self) -> _Item:
        return self.stack.pop()

    def pops(self, n: int) -> list[_Item]:
        if len(self.stack) < n:
            raise ValueError("it takes more values than it has")
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return items

    def marked(self) -> list[_Item]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def step(self, name: str, argument: Any) -> None:
        """Interpret one instruction."""
        if name in CONSTANTS:
            value = FIXED.get(name, argument)
            if isinstance(value, int) and abs(value) >= 2**64:
                raise ValueError(f"it contains a number of {value.bit_length()} bits")
            self.stack.append(_Item(value))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            item = self.memo[argument]
            item.closed = True
            self.stack.append(item)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._name(argument)
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
            if len(self.below) > 2 * MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        elif name in ("POP", "POP_MARK"):
            _ = self.pop() if name == "POP" else self.marked()
        elif name not in ("PROTO", "FRAME"):
            getattr(self, f"_{name.lower()}", self._unknown)()

    def _unknown(self) -> None:
        raise ValueError("it contains an instruction that plain values do not need")

    def _name(self, argument: str | None) -> None:
        if argument is None:
            module, name = (item.value for item in self.pops(2))
        else:
            module, _, name = argument.partition(" ")
        full = f"{RENAMED.get(module, module)}.{name}"
        if full not in self.calls:
            raise Refused(full)
        self.stack.append(_Item(Name(full)))

    def _new(self, value: Any, items: list[_Item]) -> None:
        self.stack.append(_Item(value, items))

    def _empty_list(self) -> None:
        self._new([], [])

    def _empty_dict(self) -> None:
        self._new({}, [])

    def _empty_tuple(self) -> None:
        self._new((), [])

    def _empty_set(self) -> None:
        self._new(set(), [])

    def _tuple(self) -> None:
        items = self.marked()
        self._new(tuple(item.value for item in items), items)

    def _tuple_of(self, n: int) -> None:
        items = self.pops(n)
        self._new(tuple(item.value for item in items), items)

    def _tuple1(self) -> None:
        self._tuple_of(1)

    def _tuple2(self) -> None:
        self._tuple_of(2)

    def _tuple3(self) -> None:
        self._tuple_of(3)

    def _list(self) -> None:
        items = self.marked()
        self._new([item.value for item in items], items)

    def _dict(self) -> None:
        items = self.marked()
        self._new({}, [])
        self._set(items)

    def _frozenset(self) -> None:
        items = self.marked()
        self._new(frozenset(_key(item) for item in items), items)

    def _append(self) -> None:
        self._extend([self.pop()])

    def _appends(self) -> None:
        self._extend(self.marked())

    def _extend(self, items: list[_Item]) -> None:
        target = self._top(list)
        target.hold(items)
        target.value.extend(item.value for item in items)

    def _additems(self) -> None:
        items, target = self.marked(), self._top(set)
        target.hold(items)
        target.value.update(_key(item) for item in items)

    def _setitem(self) -> None:
        self._set(self.pops(2))

    def _setitems(self) -> None:
        self._set(self.marked())

    def _set(self, items: list[_Item]) -> None:
        target = self._top(dict)
        target.hold(items)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target.value[_key(key)] = value.value

    def _top(self, kind: type) -> _Item:
        item = self.stack[-1]
        if not isinstance(item.value, kind):
            raise ValueError(f"it fills a {type(item.value).__name__} like a {kind.__name__}")
        return item

    def _reduce(self) -> None:
        function, given = self.pops(2)
        call = self.calls.get(function.value) if isinstance(function.value, Name) else None
        if call is None:
            raise Refused(str(function.value)[:80])
        self._new(call(*given.value), [given])

    _newobj = _reduce

    def _build(self) -> None:
        state, item = self.pop(), self.stack[-1]
        item.hold([state])
        if not isinstance(item.value, dict):  # attributes of an OrderedDict are ignored
            item.value = item.value.build(state.value)

    def _binpersid(self) -> None:
        if self.persistent is None:
            raise ValueError("it takes values from outside of the pickle")
        given = self.pop()
        self._new(self.persistent(given.value), [])


def _key(item: _Item) -> Any:
    """Return the key of a dict or set, after checking that it is quick to hash."""
    if not isinstance(item.value, str | bytes) and item.size > LARGEST_KEY:
        raise ValueError("a key is not a name or a number")
    return item.value


def _plain_key(value: Any) -> Any:
    if not isinstance(value, str | bytes | int | float | np.generic | None):
        raise ValueError("a key is not a name or a number")
    return value


def mapping(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """Return the pairs of an OrderedDict as a dict."""
    return {_plain_key(key): value for key, value in pairs}


# ---------------------------------------------------------------------------------------------
# numpy

KIND = re.compile(r"[biufc]\d{1,2}|O\d?|[SU]\d{1,9}")


class _Kind:
    """A data type."""

    def __init__(self, text: str, *_: Any) -> None:
        if not isinstance(text, str) or not KIND.fullmatch(text):
            raise ValueError(f"it contains the data type {text!r}, which is not supported")
        self.dtype = np.dtype(text)

    def build(self, state: Any) -> _Kind:
        """Set the byte order."""
        if state[3] is not None:
            raise ValueError("it contains a structured array, which is not supported")
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in "<>" else self.dtype
        return self


class _Array:
    """An array before its content is read."""

    def build(self, state: Any) -> np.ndarray:
        """Return the array with shape, type and content."""
        _, shape, kind, fortran, data = state
        return _array(data, kind, shape, "F" if fortran else "C")


def _array(data: Any, kind: Any, shape: Any, order: str = "C") -> np.ndarray:
    dtype = kind.dtype
    if not all(type(n) is int and 0 <= n <= 2**40 for n in shape):
        raise ValueError(f"an array has the shape {str(shape)[:80]}")
    if dtype.hasobject:
        values = np.empty(len(data), dtype=object)
        values[:] = data
    else:
        values = np.frombuffer(data, dtype) if len(data) else np.empty(0, dtype)
    if math.prod(shape) != len(values) or (
        len(values) == 0 and max(shape, default=0) > LARGEST_KEY
    ):
        raise ValueError(f"an array of {len(values):,} values has the shape {str(shape)[:80]}")
    return values.reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: Any, data: Any = b"") -> Any:
    if kind.dtype.hasobject:
        return data
    if len(data) != kind.dtype.itemsize:
        raise ValueError(f"a value of {kind.dtype.itemsize} bytes has {len(data)}")
    return np.frombuffer(data, kind.dtype, 1)[0] if len(data) else kind.dtype.type()


def _empty(*_: Any) -> _Array:
    return _Array()


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError(f"it contains text in {str(encoding)[:40]!r}")
    return text.encode(encoding)


PLAIN: Calls = {
    "builtins.bytes": lambda: b"",
    "builtins.frozenset": lambda values=(): frozenset(_plain_key(value) for value in values),
    "builtins.set": lambda values=(): {_plain_key(value) for value in values},
    "collections.OrderedDict": mapping,
    "_codecs.encode": _encoded,
    "numpy.ndarray": None,
    "numpy.dtype": _Kind,
    **{
        f"numpy.{core}.{name}": call
        for core in ("core", "_core")
        for name, call in (
            ("multiarray._reconstruct", _empty),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _array),
        )
    },
}
"""Containers, text, and numpy arrays of numbers or text."""
