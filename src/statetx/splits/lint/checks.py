"""Checks of a plan against the conditions that exist; each function adds to the findings.

`table` is the plan: ``line, perturbation, role``, without conditions that are left out.
`conditions` is ``Store.conditions``, and `perturbed` is its part without controls. `cells` holds
the number of cells of each condition, `controls` the number of control cells of each line.
`reading` says how labels are read. `log` gets the findings.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from statetx.core.errors import did_you_mean
from statetx.data.store.plan import ROLES
from statetx.shared.labels import Reading, control_spellings
from statetx.splits.apply_toml import nearest
from statetx.splits.findings import Findings, shown

MOST_SHOWN = 4
"""Number of perturbations with two roles that a message lists."""
FEWEST_TO_PARTITION = 10
"""Number of control cells of a line below which a role would get no control cell."""
KEYS = ["line", "perturbation"]


def unknown_names(table: pd.DataFrame, perturbed: pd.DataFrame, log: Findings) -> None:
    """Report lines and perturbations of the plan that the data do not contain."""
    pairs = perturbed[KEYS].drop_duplicates()
    merged = table[KEYS].merge(pairs, on=KEYS, how="left", indicator=True)
    missing = merged[merged["_merge"] == "left_only"]
    lines = sorted(perturbed["line"].unique())
    for line, block in missing.groupby("line"):
        if line not in lines:
            what = f"no cell line {line!r} in the data"
            log.found("unknown-line", what, "", did_you_mean(str(line), lines))
            continue
        known = sorted(pairs.loc[pairs["line"] == line, "perturbation"])
        for label in sorted(block["perturbation"]):
            what = f"line {line!r} has no perturbation {label!r}"
            log.found("unknown-perturbation", what, "", nearest(label, known))


def spellings(conditions: pd.DataFrame, reading: Reading, log: Findings) -> None:
    """Report conditions, and controls, that have two labels."""
    controls = list(reading.controls) or ["?"]
    perturbed = conditions.loc[~conditions["is_control"].astype(bool), "perturbation"].unique()
    again = control_spellings(perturbed, controls, reading.kind)
    if again:
        log.found(
            "control-spelling",
            f"{shown(again)} look like the control {controls[0]!r}",
            "",
            f"add them to control_pert: {[*controls, *again]}",
        )
    by_meaning: dict[str, list[str]] = {}
    for label in sorted(set(perturbed) - set(again)):
        by_meaning.setdefault(reading.canonical(label), []).append(label)
    for labels in by_meaning.values():
        if len(labels) > 1:
            log.found(
                "two-spellings",
                f"{shown(labels)} are one perturbation",
                "",
                "give them one label before packing, or one role in every line",
            )


def roles(table: pd.DataFrame, log: Findings) -> None:
    """Report unknown roles, conditions with two roles, and roles without conditions."""
    for role in sorted(set(table["role"]) - set(ROLES)):
        log.found("bad-role", f"{role!r} is not a role", "", did_you_mean(role, ROLES))
    twice = table[table.duplicated(KEYS)]
    for line, label in zip(twice["line"], twice["perturbation"], strict=True):
        log.found(
            "two-roles",
            f"condition ({line!r}, {label!r}) is listed twice",
            "",
            "give every condition one role",
        )
    # A misspelt name also empties the test set: only the misspelling, the cause, is reported.
    if log.errors:
        return
    present = set(table["role"])
    if "test" not in present:
        log.found("empty-test", "the test set is empty", "", "hold out some conditions")
    if "train" not in present:
        log.found("empty-train", "nothing is left to train on", "", "hold out fewer conditions")
    if "val" not in present:
        log.found(
            "empty-val",
            "there are no validation conditions, so the best checkpoint cannot be chosen on them",
            "",
            "hold out a few conditions as val",
        )


def split_spellings(table: pd.DataFrame, reading: Reading, log: Findings) -> pd.Series:
    """Report labels of a perturbation with two roles in a line; return a mask of their rows."""
    keys = [table["line"], table["perturbation"].map(_names(table, reading))]
    several = table.groupby(keys)[["role", "perturbation"]].transform("nunique").gt(1).all(axis=1)
    texts = []
    for (line, _), block in table[several].groupby([key[several] for key in keys]):
        places = [
            f"{label!r} is in {role}"
            for label, role in sorted(set(zip(block["perturbation"], block["role"], strict=True)))
        ]
        texts.append(f"{' and '.join(places)} of line {line!r}")
    if texts:
        more = f"; … ({len(texts)} in all)" if len(texts) > MOST_SHOWN else ""
        log.found(
            "two-roles",
            f"labels of one perturbation have two roles: {'; '.join(texts[:MOST_SHOWN])}{more}",
            "",
            "give all spellings of a perturbation one role in a line, or one label before packing; "
            "if they are different perturbations, set `labels` of the data set",
        )
    return several


def _names(table: pd.DataFrame, reading: Reading) -> dict[str, str]:
    """Return the canonical name of every perturbation of a table."""
    return {label: reading.canonical(label) for label in table["perturbation"].unique()}


def split_units(
    table: pd.DataFrame, perturbed: pd.DataFrame, structures: Mapping[str, str], log: Findings
) -> None:
    """Report doses of one drug, or names of one compound, that have two roles in a line.

    Parameters
    ----------
    table, perturbed, log
        See the module.
    structures
        Key of the structure by drug.
    """
    drug_of = perturbed.drop_duplicates("perturbation").set_index("perturbation")["drug"]
    merged = table.assign(drug=table["perturbation"].map(drug_of)).dropna(subset=["drug"])
    _crossing(
        merged,
        "drug",
        "split-doses",
        "doses of one drug are in {} and in {} of the same line: {}",
        "a neighbouring dose leaks the response: give all doses of a drug in a line one role",
        log,
    )
    names: dict[str, set[str]] = {}
    for drug in merged["drug"].unique():
        if drug in structures:
            names.setdefault(structures[drug], set()).add(drug)
    doubles = {key: " = ".join(sorted(drugs)) for key, drugs in names.items() if len(drugs) > 1}
    if doubles:
        compound = merged["drug"].map(structures).map(doubles)
        _crossing(
            merged.assign(compound=compound).dropna(subset=["compound"]),
            "compound",
            "same-structure",
            "one compound under two names is in {} and in {} of the same line: {}",
            "give both names one role, as doses of one drug",
            log,
        )


def _crossing(
    table: pd.DataFrame, unit: str, code: str, text: str, fix: str, log: Findings
) -> None:
    flags = pd.DataFrame({role: table["role"] == role for role in ROLES})
    by_unit = flags.groupby([table["line"], table[unit]]).any()
    for left, right in (("train", "test"), ("val", "test"), ("train", "val")):
        both = by_unit[by_unit[left] & by_unit[right]]
        # Each unit is reported once, for its worst pair of roles.
        by_unit = by_unit.drop(both.index)
        if len(both):
            names = shown(f"{name} in {line}" for line, name in both.index)
            log.found(code, text.format(left, right, names), "", fix)


def left_out(
    table: pd.DataFrame, perturbed: pd.DataFrame, controls: pd.Series, log: Findings
) -> None:
    """Report conditions without a role, and lines that have only control cells."""
    pairs = perturbed[KEYS].drop_duplicates()
    merged = pairs.merge(table[KEYS], on=KEYS, how="left", indicator=True)
    unused = merged[merged["_merge"] == "left_only"]
    if log.has("lines-left-out"):
        unused = unused[unused["line"].isin(table["line"])]
    if len(unused):
        pairs_out = zip(unused["line"], unused["perturbation"], strict=True)
        names = shown(f"{label} in {line}" for line, label in pairs_out)
        drugs = perturbed.drop_duplicates("perturbation").set_index("perturbation")["drug"]
        gone = sorted(set(pairs["line"]) - set(table["line"]))
        without = sorted(set(drugs) - set(table["perturbation"].map(drugs)))
        parts = [
            f"{len(missing)} {what} have no condition with a role: {shown(missing)}"
            for what, missing in (("lines", gone), ("drugs", without))
            if missing
        ]
        what = f"{len(unused)} conditions have no role: {names}"
        log.found("conditions-left-out", "; ".join([what, *parts]))
    bare = sorted({str(line) for line in controls.index} - set(pairs["line"]))
    if bare:
        log.found(
            "controls-only",
            f"{len(bare)} lines have only control cells: {shown(bare)}",
            "",
            "the plan does not list them: nothing is learnt from them, and nothing is tested in "
            "them",
        )


def small(table: pd.DataFrame, cells: pd.Series, fewest: int, log: Findings) -> None:
    """Report test conditions with fewer than `fewest` cells."""
    test = table.loc[table["role"] == "test", KEYS]
    sizes = cells.reindex(pd.MultiIndex.from_frame(test)).to_numpy()
    few = test.assign(n=sizes)[sizes < fewest].sort_values("n", kind="stable")
    if len(few):
        rows = zip(few["line"], few["perturbation"], few["n"], strict=True)
        names = shown((f"{label} in {line}: {n:g}" for line, label, n in rows), 4)
        log.found(
            "small-test",
            f"{len(few)} of {len(sizes)} test conditions have fewer than {fewest} cells: {names}",
            "",
            "set min_cells of the split to leave them out",
        )


def unseen(
    table: pd.DataFrame, perturbed: pd.DataFrame, reading: Reading, one_hot: bool, log: Findings
) -> None:
    """Report perturbations and lines that are tested but not trained on.

    Parameters
    ----------
    table, perturbed, reading, log
        See the module.
    one_hot
        Whether a model on this split knows perturbations by their id only.
    """
    train = table[table["role"] == "train"]
    test = table[table["role"] == "test"]
    new = sorted(set(test["perturbation"]) - set(train["perturbation"]))
    if new:
        knows = (
            "a model on this split knows perturbations by their id only and cannot predict these: "
        )
        fix = (
            "hold them out in some lines only, give such models perturbation_features_file, or "
            "leave them out of the experiment"
        )
        log.found(
            "unseen-perturbations" if one_hot else "new-perturbations",
            f"{len(new)} of {test['perturbation'].nunique()} test perturbations are never seen in "
            f"training: {shown(new)}",
            "",
            knows + fix
            if one_hot
            else "models that know features predict them; baselines fall back to the mean effect "
            "and flag it",
        )
    drug_of = dict(zip(perturbed["perturbation"], perturbed["drug"], strict=True))
    trained = {drug_of.get(label) for label in train["perturbation"]}
    again = set(_names(train, reading).values())
    dose_only = [
        label
        for label in new
        if drug_of.get(label) in trained and reading.canonical(label) not in again
    ]
    if dose_only:
        what = f"{len(dose_only)} of them are new doses of drugs that train: {shown(dose_only)}"
        log.found("unseen-doses", what)
    new_lines = sorted(set(test["line"]) - set(train["line"]))
    if new_lines:
        log.found(
            "unseen-lines",
            f"{len(new_lines)} test lines have no training conditions: {shown(new_lines)}",
            "",
            "context_mean uses the mean of all training lines there and flags it",
        )


def plates(table: pd.DataFrame, conditions: pd.DataFrame, reading: Reading, log: Findings) -> None:
    """Report wells that test and training share, and effects that are confounded with plates."""
    if conditions["batch"].nunique() < 2:
        return
    is_control = conditions["is_control"].astype(bool)
    where = conditions.loc[~is_control, [*KEYS, "batch", "drug", "dose"]].merge(
        table[[*KEYS, "role"]], on=KEYS
    )
    where = where.assign(name=where["perturbation"].map(_names(where, reading)))
    well = ["name", "batch"]
    trained = where.loc[where["role"] == "train", well].drop_duplicates()
    test = where[where["role"] == "test"]
    shared = test.merge(trained, on=well)[KEYS].drop_duplicates()
    if len(shared):
        n = len(test[KEYS].drop_duplicates())
        log.found(
            "shared-wells",
            f"{len(shared)} of {n} test conditions share plate and perturbation with training "
            "conditions of other lines",
            "",
            "if lines are pooled in a well, use plate_out or drug_out: only these keep test wells "
            "out of training",
        )
    controls = conditions.loc[is_control, ["line", "batch"]].drop_duplicates()
    held = test.merge(controls.assign(has=True), on=["line", "batch"], how="left")
    bare = held.groupby(KEYS)["has"].count() == 0
    if bare.any():
        log.found(
            "confounded-plates",
            f"{int(bare.sum())} of {len(bare)} test conditions have no control cell of their line "
            "on any of their plates: their effect contains the effect of the plate",
        )
    dosed = where.dropna(subset=["dose"])
    by_drug = dosed.groupby("drug")["dose"].nunique()
    several = dosed[dosed["drug"].isin(by_drug[by_drug > 1].index)]
    together = several.groupby(["drug", "batch"])["dose"].nunique().groupby("drug").max()
    separate = together[together == 1]
    if len(separate):
        log.found(
            "confounded-plates",
            f"{len(separate)} of {len(together)} drugs with several doses have each dose on a "
            "different plate: differences between doses contain differences between plates",
        )


def control_cells(table: pd.DataFrame, controls: pd.Series, policy: str, log: Findings) -> None:
    """Report lines without control cells, and how roles share the control cells of other lines.

    Parameters
    ----------
    table, controls, log
        See the module.
    policy
        ``shared`` or ``partition``.
    """
    by_line = table.groupby("line")["role"].agg(set)
    counts = {str(line): int(controls.get(line, 0)) for line in by_line.index}
    for line in [line for line, n in counts.items() if n == 0]:
        log.found(
            "no-controls",
            f"line {line!r} has no control cells",
            "",
            "leave the line out or correct control_pert: predictions start from control cells",
        )
    if policy == "partition":
        for line in [line for line, n in counts.items() if 0 < n < FEWEST_TO_PARTITION]:
            log.found(
                "too-few-controls",
                f"line {line!r} has {counts[line]} control cells, too few to partition",
                "",
                "use `controls: shared`, or leave the line out",
            )
        total = sum(counts.values())
        what = f"{total:,} control cells of {len(counts)} lines serve one role each, 80 / 10 / 10 %"
        log.found("partitioned-controls", what)
        return
    # Controls of every line of the plan are also training targets, even if the line only tests.
    shared = [line for line, used in by_line.items() if counts[str(line)] and used != {"train"}]
    if shared:
        n_cells = sum(counts[str(line)] for line in shared)
        log.found(
            "shared-controls",
            f"{n_cells:,} control cells of {len(shared)} lines serve training as well as "
            "validation or test",
            "",
            "set `controls: partition` of the split to separate them",
        )
