"""Findings of the checks of a split, collected to be shown or raised together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from statetx.core.errors import SplitError

SEVERITIES = ("error", "warning", "note")


class Check(NamedTuple):
    """A check, with its severity and the reason for it.

    Attributes
    ----------
    severity
        ``error`` (the split is refused), ``warning`` (probably a mistake, or a bias that readers of
        the scores must know) or ``note`` (a fact).
    why
        The reason for the severity, in one sentence.
    ignored
        Whether cell-load ignores the mistake silently; ``compat: true`` then makes it a warning.
    """

    severity: str
    why: str
    ignored: bool = False


CHECKS: dict[str, Check] = {
    # the file
    "unknown-table": Check("error", "nothing reads the table, so what it says is lost", True),
    "no-table": Check("error", "the key holds a value where a table belongs"),
    "dataset-path": Check("error", "a data set is one path in quotes"),
    "dotted-dataset": Check("error", "`dataset.line` is split at its first dot"),
    "training-value": Check("error", "only `train` has an effect; the data set is not used", True),
    "unknown-dataset": Check("error", "a data set is used but has no path"),
    "unused-dataset": Check("error", "a data set with a path is used nowhere", True),
    "several-datasets": Check("error", "a split is about one data set; which one is not clear"),
    "other-datasets": Check("note", "the file also splits other data sets, each separately"),
    "unquoted": Check("note", "the name is read as one label; cell-load would hold nothing out"),
    "no-line": Check("error", "the name has no data set or no line"),
    "bad-role": Check("error", "only train, val and test are roles"),
    "unknown-key": Check("error", "only val and test are read; the list is lost", True),
    "no-list": Check("error", "val and test are lists of labels"),
    "repeated-entry": Check("note", "a label counts once"),
    "line-twice": Check("error", "[zeroshot] wins and the [fewshot] table is lost", True),
    # names
    "unknown-line": Check("error", "a misspelt line trains instead of being held out", True),
    "unknown-perturbation": Check("error", "a misspelt label trains instead of testing", True),
    "control-listed": Check("error", "controls serve all roles, so the entry is lost", True),
    "two-spellings": Check("warning", "one condition under two labels counts twice"),
    "names-stripped": Check("note", "names in a table match in any spelling"),
    "few-drugs": Check("warning", "ids that are read as doses become one drug"),
    "control-spelling": Check("warning", "a control under another label is taken for a drug"),
    # leaks
    "val-test-overlap": Check("error", "the checkpoint would be chosen on test cells", True),
    "two-roles": Check("error", "a condition that tests must not train"),
    "split-doses": Check("error", "a neighbouring dose leaks the response"),
    "same-structure": Check("error", "one compound under two names leaks the response"),
    "shared-wells": Check("warning", "lines pooled in a well share ambient RNA and sequencing"),
    "confounded-plates": Check("warning", "effects of plate and drug or dose cannot be separated"),
    "shared-controls": Check("warning", "test predictions start from cells seen in training"),
    "partitioned-controls": Check("note", "each control cell serves one role"),
    "genes-chosen-outside": Check("warning", "genes or embedding may be chosen on test cells"),
    # what is left
    "empty-test": Check("error", "nothing is tested"),
    "empty-train": Check("error", "nothing is learnt"),
    "empty-val": Check("warning", "no checkpoint can be chosen; the test set is never used for it"),
    "no-controls": Check("error", "predictions start from control cells"),
    "too-few-controls": Check("error", "a role would get no control cell"),
    "lines-left-out": Check("warning", "the lines neither train nor test"),
    "conditions-left-out": Check("warning", "the conditions neither train nor test"),
    "controls-only": Check("warning", "the lines have nothing to learn or to test"),
    "small-test": Check("warning", "scores of few cells are mostly noise"),
    "small-strata": Check("note", "a stratum with one member cannot train and test"),
    # what models can know
    "unseen-perturbations": Check("error", "a model that knows a perturbation by its id only cannot"
                                  " predict an unseen one"),
    "new-perturbations": Check("note", "models that know more than an id can predict them"),
    "unseen-doses": Check("note", "new doses of known drugs"),
    "unseen-lines": Check("note", "training sees no perturbation of the lines"),
}  # fmt: skip
"""All checks by code. Codes are stable, so that scripts can use them."""


@dataclass(frozen=True)
class Finding:
    """A finding of a check.

    Attributes
    ----------
    severity
        Severity of the check, or a milder one if the user or the generator intends the finding.
    code
        Name in `CHECKS`.
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
    """A collection of findings, so that a file with five mistakes gives five messages at once.

    Attributes
    ----------
    compat
        Whether errors that cell-load ignores become warnings.
    allow
        Codes of checks whose errors the user accepts; they become warnings.
    purpose
        Codes of checks that the generator fails on purpose; their findings become notes.
    items
        Findings in order of discovery.
    """

    compat: bool = False
    allow: frozenset[str] = frozenset()
    purpose: frozenset[str] = frozenset()
    items: list[Finding] = field(default_factory=list)

    def found(self, code: str, what: str, where: str = "", fix: str = "") -> None:
        """Add a finding, with the severity that `compat`, `allow` and `purpose` give it.

        Parameters
        ----------
        code
            Name in `CHECKS`.
        what, where, fix
            See `Finding`.
        """
        check = CHECKS[code]
        severity = check.severity
        if code in self.purpose:
            severity, fix = "note", ""
        elif severity == "error" and (code in self.allow or (self.compat and check.ignored)):
            severity = "warning"
        self.items.append(Finding(severity, code, what, where, fix))

    @property
    def errors(self) -> list[Finding]:
        """Findings for which the split is refused."""
        return [item for item in self.items if item.severity == "error"]

    def has(self, *codes: str) -> bool:
        """Return whether one of these checks has a finding."""
        return any(item.code in codes for item in self.items)

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the findings as JSON values, by severity, then in order of discovery."""
        ordered = sorted(self.items, key=lambda item: SEVERITIES.index(item.severity))
        return [asdict(item) for item in ordered]

    def raise_errors(self, where: object) -> None:
        """Raise all errors as one.

        Parameters
        ----------
        where
            File or setting of the split, for the message.

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
            fix="fix each of them; nothing was written",
        )


def shown(names: Iterable[object], most: int = 8) -> str:
    """Return the first `most` names in quotes, and the total number if there are more."""
    known = [repr(str(name)) for name in names]
    more = f", … ({len(known)} in all)" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def _joined(where: object, inside: str) -> str:
    return f"{where}: {inside}" if inside else str(where)


def _line(item: Finding) -> str:
    place = f" [{item.where}]" if item.where else ""
    return f"  - {item.what}{place}" + (f": {item.fix}" if item.fix else "")
