"""Errors of this package: what is wrong, where it is, how to fix it."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import sys
import unicodedata
from collections.abc import Iterable


class StatetxError(Exception):
    """Base class of all errors that a user can fix.

    Parameters
    ----------
    what
        One sentence that contains the offending value.
    where
        The file, with the column, key or row in the file.
    fix
        Instruction for the user.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix

    def __str__(self) -> str:
        """Return the message as up to three lines: what, where, fix."""
        lines = [shortened(self.what)]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {shortened(self.fix)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Return the parts from which pickle rebuilds the error."""
        # The default pickling, which multiprocessing uses, loses keyword-only arguments.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


class ConfigError(StatetxError):
    """The configuration is not valid."""


class DataError(StatetxError):
    """An input file is not what was declared."""


class SplitError(StatetxError):
    """A split names things that do not exist, or leaks test cells into training."""


class ModelError(StatetxError):
    """A model cannot be built, loaded or used as requested."""


class ResultsError(StatetxError):
    """A result of an earlier stage is missing, damaged or does not fit."""


_LONG = re.compile(r"[^\s/]{121,}")


def shortened(text: str) -> str:
    """Return a message in which words of more than 120 characters are cut to 81.

    Parameters
    ----------
    text
        The message. Slashes and white space separate words.
    """
    return _LONG.sub(lambda name: f"{name[0][:60]}…{name[0][-20:]}", text)


class Stopped(StatetxError):
    """A signal stopped the work at a point from which it can resume.

    Parameters
    ----------
    what, where, fix
        As in `StatetxError`; printed as one line.
    number
        Number of the signal. The exit code is 128 + number, as shells expect.
    """

    def __init__(
        self, what: str, *, where: object = None, fix: str | None = None, number: int = 15
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.number = number
        self.exit_code = 128 + number

    def __str__(self) -> str:
        """Return the message as one line."""
        place = f" ({self.where})" if self.where else ""
        return f"{self.what}: {self.fix}{place}" if self.fix else f"{self.what}{place}"

    def __reduce__(self) -> tuple[object, ...]:
        """Return the parts from which pickle rebuilds the error."""
        return (_rebuild_stopped, (self.what, self.where, self.fix, self.number))


def _rebuild_stopped(what: str, where: str | None, fix: str | None, number: int) -> Stopped:
    return Stopped(what, where=where, fix=fix, number=number)


def _rebuild(
    kind: type[StatetxError], what: str, where: str | None, fix: str | None
) -> StatetxError:
    return kind(what, where=where, fix=fix)


def always_printable() -> None:
    """Make standard output and standard error escape characters that their encoding does not have.

    Without this, printing a Greek letter in an ASCII locale raises an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # a pipe that replaced a file cannot seek
                stream.reconfigure(errors="backslashreplace")


def did_you_mean(name: object, options: Iterable[object]) -> str:
    """Return a sentence that suggests the nearest option, or lists up to eight options.

    Parameters
    ----------
    name
        The unknown name.
    options
        All valid names.
    """
    known = [str(option) for option in options]
    for option in known:
        if _number(option) is not None and _number(option) == _number(str(name)):
            return f"did you mean {option!r}?"
    lowered = {option.lower(): option for option in reversed(known)}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.6)
    if near:
        nearest = lowered[near[0]]
        if unicodedata.normalize("NFKC", nearest) == unicodedata.normalize("NFKC", str(name)):
            # The two names look alike on the screen, so their characters are spelt out.
            return f"did you mean {nearest!r}, which is {nearest!a}? Your name is {name!a}."
        return f"did you mean {nearest!r}?"
    shown = ", ".join(repr(option) for option in known[:8])
    more = f", … ({len(known)} in all)" if len(known) > 8 else ""
    return f"known: {shown}{more}." if known else "There are none."


def _number(text: str) -> float | None:
    """Return the number that a text writes, or None."""
    try:
        return float(text)
    except ValueError:
        return None
