"""Design of a data set from its labels: lines, perturbations, batches, controls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from statetx.config import Dataset, load
from statetx.core.errors import ConfigError, did_you_mean
from statetx.data.h5ad.header import Header

if TYPE_CHECKING:
    import pandas as pd

_PIECE = 1 << 22
"""Cells that are counted at once."""


@dataclass(frozen=True)
class Columns:
    """Settings of single columns of obs and of X; None: not given.

    The attributes have the names of the settings of a data set in the configuration.
    """

    pert_col: str | None = None
    cell_type_key: str | None = None
    batch_col: str | None = None
    control_pert: Sequence[str] = ()
    scale: str | None = None
    labels: str = "auto"


def declared(config: Path | None, dataset: str | None, columns: Columns) -> Dataset | Columns:
    """Return the settings of some files: from a configuration, or from single columns.

    Parameters
    ----------
    config
        Configuration file, or None.
    dataset
        Name of its data set; may be omitted if the configuration has only one.
    columns
        Settings without a configuration. If they contain all that a data set needs, a `Dataset` is
        returned.

    Raises
    ------
    ConfigError
        The configuration is wrong, or does not contain the data set.
    """
    if config is not None:
        known = load(config).datasets
        name = dataset or (next(iter(known)) if len(known) == 1 else "")
        if name not in known:
            raise ConfigError(
                f"there is no data set {name!r}"
                if name
                else "there are several data sets: choose one",
                where=config,
                fix=f"use --dataset: {did_you_mean(name, known)}",
            )
        return known[name]
    needed = (columns.pert_col, columns.cell_type_key, columns.control_pert, columns.scale)
    return Dataset.model_validate({"files": [], **asdict(columns)}) if all(needed) else columns


def tally(head: Header) -> pd.DataFrame:
    """Return the number of cells of every condition and batch of a file.

    Columns: ``line``, ``perturbation``, ``batch``, ``cells``.
    """
    import pandas as pd  # slow to import, and reading the lines of a file does not need it

    lines, labels, batches = head.line.names, head.perturbation.names, head.batch.names
    pieces = []
    for start in range(0, head.n_cells, _PIECE):
        rows = slice(start, start + _PIECE)
        key = head.line.codes[rows].astype(np.int64) * len(labels) + head.perturbation.codes[rows]
        pieces.append(pd.Series(key * len(batches) + head.batch.codes[rows]).value_counts())
    counts = pd.concat(pieces).groupby(level=0).sum() if pieces else pd.Series(dtype=np.int64)
    pair, batch = np.divmod(counts.index.to_numpy(dtype=np.int64), max(1, len(batches)))
    line, label = np.divmod(pair, max(1, len(labels)))
    return pd.DataFrame(
        {
            "line": np.asarray(lines, dtype=object)[line],
            "perturbation": np.asarray(labels, dtype=object)[label],
            "batch": np.asarray(batches, dtype=object)[batch],
            "cells": counts.to_numpy(dtype=np.int64),
        }
    )


class Design:
    """Numbers of cells of all files by line, perturbation and batch.

    Parameters
    ----------
    tallies
        Tables of `tally`, one per file.
    controls
        Control labels.

    Attributes
    ----------
    table
        One row per (line, perturbation, batch) with ``cells`` and ``is_control``.
    """

    def __init__(self, tallies: Sequence[pd.DataFrame], controls: Iterable[str]) -> None:
        import pandas as pd

        together = pd.concat(list(tallies))
        names = ["line", "perturbation", "batch"]
        self.table = together.groupby(names, as_index=False, sort=True)["cells"].sum()
        self.table["is_control"] = self.table["perturbation"].isin(list(controls))

    @property
    def treated(self) -> pd.DataFrame:
        """Rows of `table` that are not controls."""
        return self.table[~self.table["is_control"]]

    def lines(self) -> pd.DataFrame:
        """Return numbers of cells, perturbations, controls and batches per line, sorted by name."""
        import pandas as pd

        cells, control = self.table, self.table[self.table["is_control"]]
        out = pd.DataFrame(
            {
                "cells": cells.groupby("line")["cells"].sum(),
                "perturbations": self.treated.groupby("line")["perturbation"].nunique(),
                "controls": control.groupby("line")["cells"].sum(),
                "batches": cells.groupby("line")["batch"].nunique(),
            }
        )
        return out.fillna(0).astype(np.int64).sort_index()

    def conditions(self) -> pd.DataFrame:
        """Return ``line``, ``perturbation``, ``cells`` of treated conditions, smallest first."""
        sizes = self.treated.groupby(["line", "perturbation"])["cells"].sum().reset_index()
        return sizes.sort_values(["cells", "line", "perturbation"], ignore_index=True)

    def matching(self) -> pd.DataFrame:
        """Return treated and control cells of each line and batch with treated cells.

        Columns: ``line``, ``batch``, ``treated``, ``controls``; fewest controls first.
        """
        import pandas as pd

        names = ["line", "batch"]
        control = self.table[self.table["is_control"]]
        out = pd.DataFrame(
            {
                "treated": self.treated.groupby(names)["cells"].sum(),
                "controls": control.groupby(names)["cells"].sum(),
            }
        )
        out = out[out["treated"].notna()].fillna(0).astype(np.int64).reset_index()
        return out.sort_values(["controls", "line", "batch"], ignore_index=True)


# ---------------------------------------------------------------------------------------------
# guesses from names of columns and labels

_CONTROL = re.compile(
    r"(?<![a-z])(dmso|control|controls|ctrl|ctl|vehicle|untreated|unperturbed|unstimulated|mock|pbs|"
    r"ntc|nt|scrambled?|no[-_ ]?drug|negctrl|neg[-_ ]?control|non[-_ ]?target(ing|ed)?|"
    r"safe[-_ ]?target(ing|ed)?)(?![a-z]|[0-9]+[a-z])",
    re.IGNORECASE,
)
_LINE = re.compile(
    r"(cell[-_ .]?(line|type|name)s?|celltypes?|context|patient|donor)", re.IGNORECASE
)
_BATCH = re.compile(
    r"(batch|plate|gem[-_ ]?group|replicate|library|lane|pool|sublibrary|sample)s?", re.IGNORECASE
)
_ENDING = r"(?:[-_ .]?(?:id|name|key|label|orig|barcode|[0-9]+))?"


def looks_like_control(label: str) -> bool:
    """Return whether a label looks like a control; combinations (``A+control``) do not."""
    return "+" not in label and _CONTROL.search(label) is not None


@dataclass(frozen=True)
class Candidate:
    """A column that may be right for an option.

    Attributes
    ----------
    option
        ``pert_col``, ``cell_type_key`` or ``batch_col``.
    column
        Name of the obs column.
    n_labels
        Number of its labels.
    controls
        Labels of the column that look like controls, most cells first.
    """

    option: str
    column: str
    n_labels: int
    controls: tuple[str, ...] = ()


def candidates(labels: Mapping[str, Sequence[str]]) -> list[Candidate]:
    """Return columns that may hold perturbations, cell lines or batches, the likeliest first.

    The guesses use the names of columns and labels. They are suggestions only.

    Parameters
    ----------
    labels
        Labels of every column that has labels, most cells first.
    """
    ranked = []
    for column, names in labels.items():
        named = [
            option
            for option, pattern in (("cell_type_key", _LINE), ("batch_col", _BATCH))
            if re.fullmatch(pattern.pattern + _ENDING, column, re.IGNORECASE)
        ]
        controls = tuple(name for name in names if looks_like_control(name))
        if controls and len(names) > 1:
            # A batch may be named after its treatment, so such a column comes last.
            ranked.append(
                ((1, bool(named), -len(names)), Candidate("pert_col", column, len(names), controls))
            )
        rank = (2, bool(controls), -len(names))
        ranked += [(rank, Candidate(option, column, len(names))) for option in named]
    return [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])]
