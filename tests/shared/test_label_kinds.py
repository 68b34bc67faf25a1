"""Doses or ids: what all labels of a data set say."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from statetx.config import Dataset
from statetx.data.pack.pack import pack
from statetx.data.store.store import open_store
from statetx.shared.label_counts import counted
from statetx.shared.label_kinds import decided, read_as
from statetx.shared.labels import Reading

TAHOE = [f"[('Drug {i}', {dose}, 'uM')]" for i in range(380) for dose in (0.05, 0.5, 5.0)]
DOSES = {
    "demo": [f"Drug{i:02d}_{dose:g}" for i in range(20) for dose in (0.05, 0.5, 5.0)],
    "Tahoe": TAHOE,
    "Tahoe without units": [f"Drug {i}_{dose}" for i in range(380) for dose in (0.05, 0.5, 5.0)],
    "nM in whole numbers": [f"Drug{i}_{dose}" for i in range(9) for dose in (10, 100, 1000, 10000)],
    "units": ["panobinostat_0.2uM", "RO4929097_5uM"],
    "percent": ["EtOH_1%", "EtOH_2%"],
    "ng per mL": ["IFNG_1ng/mL", "IFNG_2ng/mL"],
    "one drug": ["Dex_1", "Dex_10", "Dex_100"],
    "one shared dose": [f"Drug{i}_10" for i in range(5)],
    "one shared dose of 1": [f"Drug{i}_1" for i in range(5)],
    "combinations": ["A_0.5+B_0.5", "A_5+B_5", "A_0.5+B_5"],
    "powers of two": [f"D{i}_{dose}" for i in range(4) for dose in (1, 2, 4, 8)],
    "some without a dose": [*(f"D{i}_{dose}" for i in range(4) for dose in (0.1, 1)), "X", "Y"],
}
IDS = {
    "padded": [f"cmpd_{i:03d}" for i in range(1, 21)],
    "serial": [f"cmpd_{i}" for i in range(1, 21)],
    "serial with gaps": [f"cmpd_{i}" for i in range(1, 21) if i not in (4, 9)],
    "guides": [f"{gene}_{i}" for gene in ("TP53", "KLF1", "MYC") for i in (1, 2, 3)],
    "guides from 0": [f"{gene}_{i}" for gene in ("TP53", "KLF1") for i in (0, 1)],
    "guides with gaps": ["TP53_1", "TP53_2", "KLF1_1", "KLF1_4", "MYC_2", "MYC_1"],
    "pairs of guides": ["TP53_1+KLF1_2", "TP53_2+KLF1_1"],
    "compounds": ["BRD_12345", "BRD_23456", "BRD_99812"],
    "compounds of several makers": ["AZD_5363", "BAY_1895344", "GSK_2334470"],
    "many ids": [f"BRD_{i}" for i in np.random.default_rng(0).integers(100, 9000, 60)],
    "hours": ["IFNB_6h", "IFNB_24h", "IFNG_6h"],
    "days": ["KO_1d", "KO_10d", "WT_10d"],
    "genes": ["KLF1", "CEBPA", "CEBPA+KLF1"],
    "some ids": ["KLF1", "CEBPA", "MYC", "HLA_2"],
    "one stimulus": ["stim"],
}


@pytest.mark.parametrize("name", DOSES)
def test_numbers_that_are_doses(name: str) -> None:
    kind, why = decided([*DOSES[name], "DMSO_00"], ["DMSO_00"])
    assert (kind, bool(why)) == ("drug_dose", True)


@pytest.mark.parametrize("name", IDS)
def test_numbers_that_are_ids(name: str) -> None:
    kind, why = decided([*IDS[name], "DMSO"], ["DMSO"])
    assert (kind, bool(why)) == ("plain", True)


def test_what_was_said_is_not_decided() -> None:
    assert read_as("drug_dose", IDS["padded"], ["DMSO"]).kind == "drug_dose"
    assert read_as("plain", DOSES["demo"], ["DMSO"]).kind == "plain"
    assert read_as("{drug}-{dose}", ["A-1"], ["DMSO"]) == Reading("{drug}-{dose}", ("DMSO",))


def test_counts_are_told_with_the_evidence() -> None:
    control = "[('DMSO_TF', 0.0, 'uM')]"
    names = [*TAHOE, control]
    found = counted(read_as("auto", names, [control]), names, "auto")
    assert (found.drugs, found.doses, found.collapse) == (380, 3, None)
    assert found.text.startswith("380 drugs, 3 doses: labels are read as drug and dose (")
    assert "uM" in found.text
    found = counted(read_as("auto", IDS["padded"], ["DMSO"]), IDS["padded"], "auto")
    assert found.text.startswith("20 drugs, 0 doses: labels are read as plain names (")
    assert "'001'" in found.text


def test_labels_that_collapse_to_few_drugs_are_told_of() -> None:
    found = counted(Reading("drug_dose", ("DMSO",)), IDS["padded"])
    assert found.collapse == "20 labels are only 1 drug"
    assert counted(Reading(), DOSES["demo"]).collapse is None


def test_the_setting() -> None:
    made = {"files": ["x.h5ad"], "control_pert": "DMSO", "scale": "counts"}
    for good in ("auto", "plain", "drug_dose", "{drug}@{dose}{unit}"):
        assert Dataset.model_validate(made | {"labels": good}).labels == good
    for bad in ("plan", "", "{drug}", "{drug}{dose}{x}"):
        with pytest.raises(ValidationError):
            Dataset.model_validate(made | {"labels": bad})


def packed(home: Path, labels: list[str], **settings: object) -> Path:
    names = np.repeat([*labels, "ctrl"], 4)
    obs = pd.DataFrame({"drug_dose": names, "cell_line": "L1"}, index=map(str, range(len(names))))
    counts = np.random.default_rng(0).poisson(2.0, (len(names), 5)).astype(np.float32)
    anndata.AnnData(counts, obs).write_h5ad(home / "cells.h5ad")
    made = Dataset(
        files=["cells.h5ad"], control_pert="ctrl", scale="counts", batch_col=None, **settings
    )
    pack([home / "cells.h5ad"], made, "d", home / "pack")
    return home / "pack"


def test_the_decision_stands_in_the_store(tmp_path: Path) -> None:
    store = open_store(packed(tmp_path, IDS["padded"]))
    assert json.loads((store.directory / "manifest.json").read_text())["labels"] == "plain"
    assert store.reading == Reading("plain", ("ctrl",))
    treated = store.conditions[~store.conditions["is_control"]]
    assert treated["drug"].tolist() == treated["perturbation"].tolist() == IDS["padded"]
    assert treated["dose"].isna().all()


def test_a_store_of_doses_says_nothing_of_it(tmp_path: Path) -> None:
    store = open_store(packed(tmp_path, ["A_0.5", "A_5"]))
    assert "labels" not in store.manifest
    assert store.reading == Reading("drug_dose", ("ctrl",))
    treated = store.conditions[~store.conditions["is_control"]]
    assert (treated["drug"] == "A").all()
    assert treated["dose"].tolist() == [0.5, 5.0]


def test_spellings_of_a_drug_have_one_drug_but_keep_their_labels(tmp_path: Path) -> None:
    labels = ["B+A", "A+B", "KLF1+ctrl", "KLF1", "ctrl+KLF1"]
    store = open_store(packed(tmp_path, labels))
    treated = store.conditions[~store.conditions["is_control"]]
    assert sorted(treated["perturbation"]) == sorted(labels)
    by_label = treated.set_index("perturbation")["drug"]
    assert by_label["B+A"] == by_label["A+B"]
    assert by_label["KLF1"] == by_label["KLF1+ctrl"] == by_label["ctrl+KLF1"]
