"""Make the splits of Tahoe-100M in this directory, with their lint reports.

    python config/splits/tahoe/make.py DESIGN_DIR        # the published design, names and counts
    python config/splits/tahoe/make.py CONDITIONS --drug-table drug_metadata.parquet

DESIGN_DIR holds ``obs_cell_grid.parquet`` (drug, cell_name, plate, conc, n_cells) and
``drug_metadata.parquet``. CONDITIONS is a packed store, or a table ``line, perturbation, n_cells,
batch``: use it when your labels are spelt otherwise than ``Drug_0.5``. Salts of one compound have one
role in every line, by the structures of the drug table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from statetx.config import splits
from statetx.core.text_files import write_text
from statetx.shared.labels import DRUG_DOSE, spell
from statetx.splits.compounds.drug_tables import facts_of
from statetx.splits.lint.lint import Facts
from statetx.splits.sources import Source, from_data, source_from
from statetx.splits.split import checked, made_from
from statetx.splits.toml import write_toml

CONTROL = "DMSO_TF_00"
HOLDOUT = ["C32", "HOP62", "HepG2/C3A", "Hs 766T", "PANC-1"]
FOLDS = 5


def from_design(directory: Path) -> Source:
    """Read the published design: one row per (drug, line, plate, dose)."""
    grid = pd.read_parquet(directory / "obs_cell_grid.parquet")
    labels = [
        CONTROL if dose == 0 else spell(drug, dose)
        for drug, dose in zip(grid["drug"], grid["conc"], strict=True)
    ]
    table = pd.DataFrame(
        {
            "line": grid["cell_name"],
            "perturbation": labels,
            "batch": grid["plate"],
            "n_cells": grid["n_cells"],
        }
    )
    return source_from(table, [CONTROL], directory, DRUG_DOSE)


def settings(drugs: splits.DrugTable) -> dict[str, splits.Generated]:
    """Return the layouts by the name of their file."""
    return {
        "holdout5": splits.ContextFewshot(
            dataset="tahoe", generator="context_fewshot", lines=HOLDOUT, drug_table=drugs
        ),
        "dc20": splits.BlockSplit(dataset="tahoe", generator="dc_block", drug_table=drugs),
        "lines": splits.LineFolds(
            dataset="tahoe", generator="line_folds", k=FOLDS, drug_table=drugs
        ),
    }


def main() -> None:
    """Write every split and its report beside this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--drug-table", type=Path, help="default: the one of the design")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    design = (options.data / "obs_cell_grid.parquet").is_file()
    source = from_design(options.data) if design else from_data(options.data, [CONTROL])
    table = options.drug_table or options.data / "drug_metadata.parquet"
    drugs = splits.DrugTable(path=str(table), name="drug", smiles="canonical_smiles")
    for name, chosen in settings(drugs).items():
        known = facts_of(chosen)
        for fold in range(FOLDS) if isinstance(chosen, splits.Folds) else [None]:
            facts = Facts(source.controls, one_hot=True)
            plan, report = checked(source.conditions, chosen, fold, None, known, facts)
            report.findings.raise_errors(name)
            origin = made_from(plan, chosen, fold)
            origin["drug_table"] = {"name": "drug", "smiles": "canonical_smiles"}
            stem = name if fold is None else f"{name}.{fold}"
            path = options.out / f"{stem}.toml"
            write_toml(plan, source.conditions, "tahoe", "results/tahoe/pack", path, origin)
            write_text(options.out / f"{stem}.lint.txt", report.text() + "\n")
            print(path)


if __name__ == "__main__":
    main()
