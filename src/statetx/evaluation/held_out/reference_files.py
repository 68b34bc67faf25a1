"""Files of the reference of a line: real values are computed once and read for each model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from statetx.core.errors import ResultsError
from statetx.core.records import verify
from statetx.core.writes import whole
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.held_out.training_reference import OWN_LINE, MeanDelta
from statetx.evaluation.scores.columns import COLUMNS, DROPPED, IDENTITY, REFERENCE, write_note
from statetx.evaluation.scores.differential_expression import DETable, read_table
from statetx.evaluation.scores.pseudobulk import Group, Profile
from statetx.shared.tables import write_table

TOO_FEW = "fewer than 2 real cells: no spread, no distance"


@dataclass(frozen=True)
class RealCondition:
    """Real values of one condition.

    Attributes
    ----------
    cells
        Summary of its real cells.
    delta
        float64 [G], mean profile minus that of all controls of the line, without the directions
        between batches.
    control
        Control profile of its batches.
    own_energy
        Energy distance (V) of its cells from the compared controls, as cell-eval computes it.
    """

    cells: Group
    delta: np.ndarray
    control: Profile
    own_energy: float


@dataclass(frozen=True)
class Reference:
    """The reference of one line, as the reference stage wrote it.

    Attributes
    ----------
    directory
        Directory of the files.
    real
        Perturbation -> real values, sorted.
    training
        Mean training delta.
    gammas
        Kernel widths of the MMD.
    max_cells, seed
        Settings of the reference.
    """

    directory: Path
    real: dict[str, RealCondition]
    training: MeanDelta
    gammas: list[float]
    max_cells: int
    seed: int

    @cached_property
    def de(self) -> DETable:
        """Real differential expression against controls of the same batches, rows as `real`."""
        return read_table(self.directory / "real_de.parquet").select(list(self.real))

    def fold_change(self, perturbation: str) -> np.ndarray:
        """Return the real log2 fold change of a condition, float64 [G].

        Parameters
        ----------
        perturbation
            A perturbation in `real`.
        """
        fold: np.ndarray = self.de.log2_fold_change[list(self.real).index(perturbation)]
        return fold

    @property
    def scored(self) -> list[str]:
        """Perturbations with at least 2 real cells, which are scored."""
        return [name for name, real in self.real.items() if real.cells.n >= 2]


def write_real(real: Mapping[str, RealCondition], training: MeanDelta, path: Path) -> None:
    """Write real values as parquet, with kinds real, control, delta and mean_training_delta.

    Parameters
    ----------
    real
        Perturbation -> real values.
    training
        Mean training delta.
    path
        Parquet file.
    """
    rows = []
    for name, condition in real.items():
        cells = condition.cells
        rows.append(
            {
                "kind": "real",
                "perturbation": name,
                "n": cells.n,
                "squares": cells.squares,
                "noise": cells.noise,
                "own_energy": condition.own_energy,
                "values": cells.mean,
            }
        )
        control = {"noise": condition.control.noise, "values": condition.control.mean}
        rows.append({"kind": "control", "perturbation": name, **control})
        rows.append({"kind": "delta", "perturbation": name, "values": condition.delta})
    if training.values is not None:
        rows.append(
            {
                "kind": "mean_training_delta",
                "perturbation": training.taken_from,
                "n": training.n_conditions,
                "values": training.values,
            }
        )
    table = pd.DataFrame(rows)
    with whole(path) as part:
        table.to_parquet(part, index=False)


def read_reference(directory: str | Path) -> Reference:
    """Read the reference of a line.

    Parameters
    ----------
    directory
        Directory that `reference` wrote.

    Raises
    ------
    ResultsError
        A file is missing or damaged.
    """
    directory = Path(directory)
    try:
        table = pd.read_parquet(verify(directory / "pseudobulk.parquet"))
        settings = json.loads(verify(directory / "bandwidths.json").read_text(encoding="utf-8"))
        gammas, max_cells, seed = (
            settings["gammas"],
            int(settings["max_cells"]),
            int(settings["seed"]),
        )
        kinds = {kind: part.set_index("perturbation") for kind, part in table.groupby("kind")}
        controls = {
            str(name): Profile(np.asarray(row["values"]), float(row["noise"]))
            for name, row in kinds["control"].iterrows()
        }
        deltas = {str(n): np.asarray(row["values"]) for n, row in kinds["delta"].iterrows()}
        real = {
            str(name): RealCondition(
                Group(int(row["n"]), np.asarray(row["values"]), float(row["squares"])),
                deltas[str(name)],
                controls[str(name)],
                float(row["own_energy"]),
            )
            for name, row in kinds["real"].iterrows()
        }
        training = MeanDelta(None, 0, OWN_LINE)
        if "mean_training_delta" in kinds:
            row = kinds["mean_training_delta"].iloc[0]
            training = MeanDelta(np.asarray(row["values"]), int(row["n"]), str(row.name))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"cannot read the reference: {error!r}",
            where=directory,
            fix="run the reference stage again",
        ) from error
    return Reference(directory, real, training, gammas, max_cells, seed)


def reference_note(training: MeanDelta) -> dict[str, str]:
    """Return a note if the mean training delta comes from other lines, else no note.

    Parameters
    ----------
    training
        Mean training delta.
    """
    if training.values is None or training.taken_from == OWN_LINE:
        return {}
    return {REFERENCE: f"no training conditions in this line, mean delta of {training.taken_from}"}


def write_scores(
    held_out: HeldOutLine,
    real: Mapping[str, RealCondition],
    table: pd.DataFrame,
    missing: str,
    path: Path,
) -> None:
    """Write a table of scores: one row per tested condition, NaN for those without scores.

    Parameters
    ----------
    held_out
        The line.
    real
        Real values of all tested conditions.
    table
        Scores, as `conditions.score` returns them.
    missing
        Why conditions with at least 2 real cells are not in `table`.
    path
        CSV file.
    """
    scored = {row["perturbation"]: row for row in table.to_dict("records")}
    rows = []
    for name in held_out.perturbations:
        drug, dose = held_out.identity(name)
        n = real[name].cells.n
        row: dict[str, object] = dict(
            zip(IDENTITY, (held_out.line.name, name, drug, dose, n), strict=True)
        )
        if name in scored:
            row |= {str(key): value for key, value in scored[name].items()}
        else:
            row["note"] = write_note({DROPPED: TOO_FEW if n < 2 else missing})
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*IDENTITY, *COLUMNS, "note"])
    with whole(path) as part:
        write_table(frame, part)
