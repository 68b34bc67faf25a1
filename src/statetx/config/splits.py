"""Settings of splits: the generators and tables that choose held-out conditions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from statetx.config.sections import Section, unit

Controls = Literal["shared", "partition"]


def _share(default: float, of: str, where: str, least: float | None = None) -> Any:
    """Return the field of a share.

    Parameters
    ----------
    default
        Default share.
    of
        What is drawn, such as ``drugs``.
    where
        Rest of the description, such as ``in the test block``.
    least
        Smallest allowed share. None: the share must be above 0.
    """
    text = f"share of {of} {where}" + ("" if least is None else "; 0: none")
    bounds: dict[str, Any] = {"gt": 0} if least is None else {"ge": least}
    return Field(
        default, lt=1, description=text, json_schema_extra=unit(f"share of {of}"), **bounds
    )


class DrugTable(Section):
    """Table of drugs, one row per drug, with structures, groups and strata."""

    path: str = Field(description="CSV, TSV or parquet file")
    name: str = Field("drug", description="column with the names of the drugs, as in the labels")
    smiles: str | None = Field(
        None,
        description="column with SMILES; two names of the same compound are then recognised",
    )


class LineTable(Section):
    """Table of cell lines; rows of the same line must agree in the column that is read."""

    path: str = Field(description="CSV, TSV or parquet file")
    name: str = Field("cell_line", description="column with the names of the cell lines")


class Stratify(Section):
    """Columns whose values have the same proportions in the test set as in the data."""

    drugs: str | None = Field(
        None,
        description="column of the drug table or of obs; `effect`: three groups of equal size by "
        "strength of the effect, measured in training lines only",
    )
    lines: str | None = Field(None, description="column of the line table or of obs")


class Held(Section):
    """Settings that all splits share."""

    dataset: str = Field(description="name of a data set")
    controls: Controls = Field(
        "shared",
        description="use of the control cells of a line: all roles share all of them (`shared`), "
        "or training, validation and test get 80 / 10 / 10 % (`partition`)",
    )
    drug_table: DrugTable | None = Field(None, description="table of drugs")


class Generated(Held):
    """Settings that all generators share."""

    draws: ClassVar[frozenset[str]] = frozenset()
    """Which of ``drugs, lines`` are drawn at random; only these can be stratified."""
    training_lines: ClassVar[bool] = False
    """Whether some lines train with all drugs, so that effects can be measured in training."""

    seed: int = Field(0, description="random seed of the draw")
    min_cells: int = Field(
        0,
        ge=0,
        description="smallest number of cells of a held-out condition; smaller ones are left out "
        "of the split",
        json_schema_extra=unit("cells"),
    )
    line_table: LineTable | None = Field(None, description="table of cell lines")
    stratify: Stratify = Field(
        Stratify(), description="columns whose proportions the test set keeps"
    )

    @model_validator(mode="after")
    def _tables_are_used(self) -> Generated:
        if self.line_table is not None and self.stratify.lines is None:
            raise ValueError(
                "line_table is used by stratify.lines only: name a column in stratify.lines"
            )
        return self

    @model_validator(mode="after")
    def _strata_are_used(self) -> Generated:
        name = getattr(self, "generator", "this generator")
        for what in ("drugs", "lines"):
            if getattr(self.stratify, what) is not None and what not in self.draws:
                raise ValueError(f"stratify.{what} has no effect: {name} does not draw {what}")
            val = getattr(self, f"val_{what[:-1]}_fraction", 0)
            named = getattr(self, what, None) is not None and not val
            if getattr(self.stratify, what) is not None and named:
                raise ValueError(f"stratify.{what} has no effect: {what} are named, not drawn")
        if self.stratify.drugs == "effect" and not self.training_lines:
            raise ValueError(
                f"stratify.drugs: effect cannot be used with {name}: no line trains with all "
                "drugs, so the strength of effects would be measured on test cells; name a column "
                "instead"
            )
        return self


class BlockSplit(Generated):
    """Test = some drugs (all doses) x some lines; validation = other drugs x other lines."""

    draws = frozenset({"drugs", "lines"})
    training_lines = True

    generator: Literal["dc_block"] = Field(description="block of drugs x cell lines")
    drug_fraction: float = _share(0.2, "drugs", "in the test block")
    line_fraction: float = _share(0.2, "lines", "in the test block")
    val_drug_fraction: float = _share(0.1, "drugs", "in validation", 0)
    val_line_fraction: float = _share(0.1, "lines", "in validation", 0)


class PairRandom(Generated):
    """Test = random (line, drug) pairs, all doses; most drugs and lines train in other pairs."""

    draws = frozenset({"drugs", "lines"})

    generator: Literal["pair_random"] = Field(description="random (line, drug) pairs")
    fraction: float = _share(0.2, "pairs", "in the test set")
    val_fraction: float = _share(0.1, "pairs", "in validation", 0)


class ContextFewshot(Generated):
    """Test = drugs of some lines; these lines keep a share of their drugs for training."""

    draws = frozenset({"drugs", "lines"})
    training_lines = True

    generator: Literal["context_fewshot"] = Field(description="lines with few training drugs")
    lines: list[str] | None = Field(
        None, description="names of the held-out lines; null: drawn at random"
    )
    line_fraction: float = _share(0.2, "lines", "that are held out, if drawn")
    keep_fraction: float = _share(0.3, "drugs", "of a held-out line that stay in training")
    val_fraction: float = _share(0.1, "drugs", "of a held-out line in validation", 0)


class LineOut(Generated):
    """Test = all conditions of some lines; training has only the controls of these lines."""

    draws = frozenset({"lines"})

    generator: Literal["line_out"] = Field(description="whole lines")
    lines: list[str] | None = Field(
        None, description="names of the test lines; null: drawn at random"
    )
    line_fraction: float = _share(0.2, "lines", "in the test set, if drawn")
    val_line_fraction: float = _share(0.1, "lines", "in validation", 0)


class DrugOut(Generated):
    """Test = some drugs in all lines; for models with features of drugs."""

    draws = frozenset({"drugs"})

    generator: Literal["drug_out"] = Field(description="whole drugs")
    drugs: list[str] | None = Field(
        None, description="names of the test drugs; null: drawn at random"
    )
    drug_fraction: float = _share(0.2, "drugs", "in the test set, if drawn")
    val_drug_fraction: float = _share(0.1, "drugs", "in validation", 0)


class BothOut(Generated):
    """Test = some drugs x some lines, neither of which are in training."""

    draws = frozenset({"drugs", "lines"})
    training_lines = True

    generator: Literal["both_out"] = Field(description="new drugs in new lines")
    drug_fraction: float = _share(0.2, "drugs", "in the test set")
    line_fraction: float = _share(0.2, "lines", "in the test set")
    val_drug_fraction: float = _share(0.1, "drugs", "in validation", 0)
    val_line_fraction: float = _share(0.1, "lines", "in validation", 0)


class DoseSplit(Generated):
    """Test = one dose of some drugs; training has their other doses."""

    draws = frozenset({"drugs", "lines"})

    generator: Literal["dose_interpolate", "dose_extrapolate"] = Field(
        description="held-out dose: the middle dose, or the highest dose"
    )
    drug_fraction: float = _share(0.2, "drugs", "with a dose in the test set")
    val_drug_fraction: float = _share(0.1, "drugs", "with a dose in validation", 0)
    line_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of lines in which the dose is held out; 1: training never has this dose",
        json_schema_extra=unit("share of lines"),
    )

    @model_validator(mode="after")
    def _lines_are_drawn(self) -> DoseSplit:
        if self.line_fraction == 1 and self.stratify.lines is not None:
            raise ValueError(
                "stratify.lines has no effect: with line_fraction 1, lines are not drawn"
            )
        return self


class PlateOut(Generated):
    """Test = all conditions with cells on some plates (batches)."""

    generator: Literal["plate_out"] = Field(description="whole plates")
    plates: list[str] | None = Field(
        None, description="names of the test plates; null: drawn at random"
    )
    plate_fraction: float = _share(0.1, "plates", "in the test set, if drawn")
    val_plate_fraction: float = _share(0.1, "plates", "in validation", 0)


class GroupOut(Generated):
    """Test = all drugs of some groups, which share a mechanism or a chemical scaffold."""

    generator: Literal["moa_out", "scaffold_out"] = Field(
        description="groups of drugs: by a column of the drug table, or by Bemis-Murcko scaffold"
    )
    group: str | None = Field(
        None, description="for moa_out: column of the drug table that names the group"
    )
    drug_fraction: float = _share(0.2, "drugs", "in the test set, to within one group")
    val_drug_fraction: float = _share(0.1, "drugs", "in validation, to within one group", 0)

    @model_validator(mode="after")
    def _has_groups(self) -> GroupOut:
        if self.drug_table is None:
            raise ValueError(f"{self.generator} needs a drug_table: {{path: FILE, name: COLUMN}}")
        if self.generator == "moa_out" and self.group is None:
            raise ValueError("moa_out needs group: the column of the drug table with the groups")
        if self.generator == "scaffold_out" and self.group is not None:
            raise ValueError("group has no effect: scaffold_out groups drugs by scaffold")
        if self.generator == "scaffold_out" and self.drug_table.smiles is None:
            raise ValueError("scaffold_out needs drug_table.smiles: the column with structures")
        return self


class Folds(Generated):
    """k disjoint folds, so that every condition is tested once; the next fold is validation."""

    k: int = Field(
        ge=2,
        le=10_000,
        description="number of folds; the number of lines or drugs gives leave-one-out",
        json_schema_extra=unit("folds"),
    )
    val: bool = Field(True, description="whether the next fold is used for validation")


class LineFolds(Folds):
    """k disjoint folds over lines: every condition is tested once, in a line without training."""

    draws = frozenset({"lines"})

    generator: Literal["line_folds"] = Field(description="leave lines out")


class PerturbationFolds(Folds):
    """k disjoint folds over drugs (all doses): every condition is tested once, as a new drug."""

    draws = frozenset({"drugs"})

    generator: Literal["perturbation_folds"] = Field(description="leave drugs out")


class TomlSplit(Held):
    """Split in cell-load's TOML format, written by hand or by another tool."""

    toml: str = Field(description="path of the TOML file; `{data_root}` is replaced")
    compat: bool = Field(
        False,
        description="whether entries that cell-load ignores give a warning instead of an error",
    )
    allow: list[str] = Field(
        [], description="checks whose errors become warnings, such as `split-doses`"
    )


GENERATORS: dict[str, type[Generated]] = {
    "dc_block": BlockSplit,
    "pair_random": PairRandom,
    "context_fewshot": ContextFewshot,
    "line_out": LineOut,
    "drug_out": DrugOut,
    "both_out": BothOut,
    "dose_interpolate": DoseSplit,
    "dose_extrapolate": DoseSplit,
    "plate_out": PlateOut,
    "moa_out": GroupOut,
    "scaffold_out": GroupOut,
    "line_folds": LineFolds,
    "perturbation_folds": PerturbationFolds,
}
"""Settings by the name of the generator."""


def _split_kind(value: Any) -> str | None:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    if "toml" in given:
        return "toml"
    kind = GENERATORS.get(str(given.get("generator")))
    return None if kind is None else kind.__name__


Split = Annotated[
    Annotated[BlockSplit, Tag("BlockSplit")]
    | Annotated[PairRandom, Tag("PairRandom")]
    | Annotated[ContextFewshot, Tag("ContextFewshot")]
    | Annotated[LineOut, Tag("LineOut")]
    | Annotated[DrugOut, Tag("DrugOut")]
    | Annotated[BothOut, Tag("BothOut")]
    | Annotated[DoseSplit, Tag("DoseSplit")]
    | Annotated[PlateOut, Tag("PlateOut")]
    | Annotated[GroupOut, Tag("GroupOut")]
    | Annotated[LineFolds, Tag("LineFolds")]
    | Annotated[PerturbationFolds, Tag("PerturbationFolds")]
    | Annotated[TomlSplit, Tag("toml")],
    Discriminator(_split_kind),
]
