"""What a check has to say about a split: findings, collected and then shown or raised together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from statetx.errors import SplitError

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes
    ----------
    severity
        ``error`` (the split is refused), ``warning`` (probably not meant) or ``note`` (a fact
        that a reader of the scores should know).
    code
        Short name of the check, such as ``unknown-line``; stable, for scripts.
    what
        One sentence with the offending value in it.
    where
        Table and key, or cell line.
    fix
        What to do about it.
    """

    severity: str
    code: str
    what: str
    where: str = ""
    fix: str = ""


@dataclass
class Findings:
    """Collects findings, so that a file with five mistakes gets five messages at once.

    Name the variable ``log``: calls on a ``log`` are messages, which the code fingerprint of a
    stage leaves out, so that a reworded message reruns nothing.
    """

    items: list[Finding] = field(default_factory=list)

    def error(self, code: str, what: str, where: str = "", fix: str = "") -> None:
        """Add something that makes the split unusable."""
        self.items.append(Finding("error", code, what, where, fix))

    def warning(self, code: str, what: str, where: str = "", fix: str = "") -> None:
        """Add something that is probably not meant."""
        self.items.append(Finding("warning", code, what, where, fix))

    def info(self, code: str, what: str, where: str = "", fix: str = "") -> None:
        """Add a fact worth knowing."""
        self.items.append(Finding("note", code, what, where, fix))

    @property
    def errors(self) -> list[Finding]:
        """The findings that refuse the split."""
        return [item for item in self.items if item.severity == "error"]

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the findings as JSON values, the worst first, otherwise in order of discovery."""
        ordered = sorted(self.items, key=lambda item: SEVERITIES.index(item.severity))
        return [asdict(item) for item in ordered]

    def raise_errors(self, where: object) -> None:
        """Raise all errors as one.

        Raises
        ------
        SplitError
            There is at least one error; its text lists all of them.
        """
        errors = self.errors
        if not errors:
            return
        if len(errors) == 1:
            only = errors[0]
            raise SplitError(only.what, where=_joined(where, only.where), fix=only.fix or None)
        raise SplitError(
            f"the split has {len(errors)} errors:\n" + "\n".join(_line(item) for item in errors),
            where=where,
            fix="mend each of them; nothing was written",
        )


def shown(names: Iterable[object], most: int = 8) -> str:
    """Return names in quotes, the first few of them, and how many there are in all."""
    known = [repr(str(name)) for name in names]
    more = f", … ({len(known)} in all)" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def _joined(where: object, inside: str) -> str:
    return f"{where}: {inside}" if inside else str(where)


def _line(item: Finding) -> str:
    place = f" [{item.where}]" if item.where else ""
    return f"  - {item.what}{place}" + (f": {item.fix}" if item.fix else "")
