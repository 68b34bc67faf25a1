"""One way to say that something is wrong: what, where, and how to mend it."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import sys
import unicodedata
from collections.abc import Iterable


class StatetxError(Exception):
    """An error that a user can mend.

    Parameters
    ----------
    what
        One sentence with the offending value in it.
    where
        File, and the column, key or row inside it.
    fix
        What to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix

    def __str__(self) -> str:
        lines = [shortened(self.what)]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {shortened(self.fix)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, which multiprocessing uses.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


class ConfigError(StatetxError):
    """The configuration does not say what it must."""


class DataError(StatetxError):
    """An input file is not what was declared."""


class SplitError(StatetxError):
    """A split names things that do not exist, or leaks."""


class ModelError(StatetxError):
    """A model cannot be built, loaded or asked for this."""


class ResultsError(StatetxError):
    """A result of an earlier stage is missing, broken or does not fit."""


_LONG = re.compile(r"[^\s/]{121,}")


def shortened(text: str) -> str:
    """Return a message with names of more than 120 letters cut: their beginning tells them apart."""
    return _LONG.sub(lambda name: f"{name[0][:60]}…{name[0][-20:]}", text)


class Stopped(StatetxError):
    """A signal ended the work at a place from which it goes on.

    Parameters
    ----------
    what, where, fix
        As for other errors; told as one line.
    number
        The signal; a shell expects the exit code 128 + number.
    """

    def __init__(
        self, what: str, *, where: object = None, fix: str | None = None, number: int = 15
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.number = number
        self.exit_code = 128 + number

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.what}: {self.fix}{place}" if self.fix else f"{self.what}{place}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_stopped, (self.what, self.where, self.fix, self.number))


def _rebuild_stopped(what: str, where: str | None, fix: str | None, number: int) -> Stopped:
    return Stopped(what, where=where, fix=fix, number=number)


def _rebuild(
    kind: type[StatetxError], what: str, where: str | None, fix: str | None
) -> StatetxError:
    return kind(what, where=where, fix=fix)


def always_printable() -> None:
    """Let standard output and error write what their encoding lacks as ``\\u03b3``, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # a pipe that took the place of a file cannot seek
                stream.reconfigure(errors="backslashreplace")


def did_you_mean(name: object, options: Iterable[object]) -> str:
    """Return ``did you mean 'x'?`` for the nearest option, or a short list of them: a sentence.

    Parameters
    ----------
    name
        What was asked for.
    options
        What there is.
    """
    known = [str(option) for option in options]
    for option in known:
        if _number(option) is not None and _number(option) == _number(str(name)):
            return f"did you mean {option!r}?"
    lowered = {option.lower(): option for option in reversed(known)}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.6)
    if near:
        found = lowered[near[0]]
        if unicodedata.normalize("NFKC", found) == unicodedata.normalize("NFKC", str(name)):
            # They look alike on the screen.
            return f"did you mean {found!r}, which is {found!a}? The other is {name!a}."
        return f"did you mean {found!r}?"
    shown = ", ".join(repr(option) for option in known[:8])
    more = f", … ({len(known)} in all)" if len(known) > 8 else ""
    return f"known: {shown}{more}." if known else "There are none."


def _number(text: str) -> float | None:
    """Return the number that a text is; None: it is not one."""
    try:
        return float(text)
    except ValueError:
        return None
