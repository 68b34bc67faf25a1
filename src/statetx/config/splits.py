"""Settings of splits: which conditions are held out."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from statetx.config.sections import Section, unit

Controls = Literal["shared", "partition"]


def _share(default: float, of: str, where: str, least: float | None = None) -> Any:
    """Return the field of a share: of test units above 0, of validation units also 0 (none)."""
    text = f"share of {of} {where}" + ("" if least is None else "; 0: none")
    bounds: dict[str, Any] = {"gt": 0} if least is None else {"ge": least}
    return Field(
        default, lt=1, description=text, json_schema_extra=unit(f"share of {of}"), **bounds
    )


class DrugTable(Section):
    """A table of drugs, one row each: structures for the check, groups and strata for the draw."""

    path: str = Field(description="CSV, TSV or parquet file")
    name: str = Field("drug", description="its column with the drugs' names, as in the labels")
    smiles: str | None = Field(
        None, description="its column with structures; one structure under two names is then found"
    )


class LineTable(Section):
    """A table of cell lines; rows of one line must agree in the column that is read."""

    path: str = Field(description="CSV, TSV or parquet file")
    name: str = Field("cell_line", description="its column with the lines' names")


class Stratify(Section):
    """Columns whose values the test set holds in the same proportions as the data."""

    drugs: str | None = Field(
        None,
        description="column of the drug table or of obs; `effect`: thirds by strength of the effect, "
        "measured in training lines only",
    )
    lines: str | None = Field(None, description="column of the line table or of obs")


class Held(Section):
    """What all splits have in common."""

    dataset: str = Field(description="name of a data set")
    controls: Controls = Field(
        "shared",
        description="control cells of a line: shared by all roles, or partitioned 80 / 10 / 10 "
        "between training, validation and test",
    )
    drug_table: DrugTable | None = Field(None, description="what is known of drugs")


class Generated(Held):
    """What all generators have in common."""

    draws: ClassVar[frozenset[str]] = frozenset()
    """Of ``drugs, lines``, what is drawn at random, hence what can be stratified."""
    training_lines: ClassVar[bool] = False
    """Whether some lines train with all drugs, so that effects can be measured without the test."""

    seed: int = Field(0, description="seed of the draw")
    min_cells: int = Field(
        0,
        ge=0,
        description="conditions of fewer cells are not tested: they are left out where they would be",
        json_schema_extra=unit("cells"),
    )
    line_table: LineTable | None = Field(None, description="what is known of cell lines")
    stratify: Stratify = Field(Stratify(), description="proportions that the draw keeps")

    @model_validator(mode="after")
    def _tables_are_used(self) -> Generated:
        if self.line_table is not None and self.stratify.lines is None:
            raise ValueError("line_table is read for stratify.lines alone: name a column there")
        return self

    @model_validator(mode="after")
    def _strata_are_used(self) -> Generated:
        name = getattr(self, "generator", "this generator")
        for what in ("drugs", "lines"):
            if getattr(self.stratify, what) is not None and what not in self.draws:
                raise ValueError(f"stratify.{what} has no effect: {name} draws no {what}")
            val = getattr(self, f"val_{what[:-1]}_fraction", 0)
            named = getattr(self, what, None) is not None and not val
            if getattr(self.stratify, what) is not None and named:
                raise ValueError(f"stratify.{what} has no effect: {what} are named, not drawn")
        if self.stratify.drugs == "effect" and not self.training_lines:
            raise ValueError(
                f"stratify.drugs: effect cannot be used with {name}: no line trains with all drugs, so "
                "that the strength of effects would be read off test cells; name a column instead"
            )
        return self


class BlockSplit(Generated):
    """Test = some drugs (all doses) x some lines; validation = other drugs x other lines."""

    draws = frozenset({"drugs", "lines"})
    training_lines = True

    generator: Literal["dc_block"] = Field(description="drug x cell-line block")
    drug_fraction: float = _share(0.2, "drugs", "in the test block")
    line_fraction: float = _share(0.2, "lines", "in the test block")
    val_drug_fraction: float = _share(0.1, "drugs", "in validation", 0)
    val_line_fraction: float = _share(0.1, "lines", "in validation", 0)


class PairRandom(Generated):
    """Test = random (line, drug) pairs, all doses: each drug and line is mostly seen elsewhere."""

    draws = frozenset({"drugs", "lines"})

    generator: Literal["pair_random"] = Field(description="random (line, drug) pairs")
    fraction: float = _share(0.2, "pairs", "that test")
    val_fraction: float = _share(0.1, "pairs", "that validate", 0)


class ContextFewshot(Generated):
    """Some lines keep a share of their drugs for training; their other drugs test."""

    draws = frozenset({"drugs", "lines"})
    training_lines = True

    generator: Literal["context_fewshot"] = Field(description="lines with few training drugs")
    lines: list[str] | None = Field(None, description="these lines; null: drawn")
    line_fraction: float = _share(0.2, "lines", "that are held out, if drawn")
    keep_fraction: float = _share(0.3, "drugs", "of such a line that train")
    val_fraction: float = _share(0.1, "drugs", "of such a line that validate", 0)


class LineOut(Generated):
    """Test = all conditions of some lines, of which training sees controls only."""

    draws = frozenset({"lines"})

    generator: Literal["line_out"] = Field(description="whole lines")
    lines: list[str] | None = Field(None, description="these lines test; null: drawn")
    line_fraction: float = _share(0.2, "lines", "that test, if drawn")
    val_line_fraction: float = _share(0.1, "lines", "that validate", 0)


class DrugOut(Generated):
    """Test = some drugs in all lines; for models that know more of a drug than its name."""

    draws = frozenset({"drugs"})

    generator: Literal["drug_out"] = Field(description="whole drugs")
    drugs: list[str] | None = Field(None, description="these drugs test; null: drawn")
    drug_fraction: float = _share(0.2, "drugs", "that test, if drawn")
    val_drug_fraction: float = _share(0.1, "drugs", "that validate", 0)


class BothOut(Generated):
    """Test = some drugs x some lines, neither of them seen in training."""

    draws = frozenset({"drugs", "lines"})
    training_lines = True

    generator: Literal["both_out"] = Field(description="new drugs in new lines")
    drug_fraction: float = _share(0.2, "drugs", "that are new in the test")
    line_fraction: float = _share(0.2, "lines", "that are new in the test")
    val_drug_fraction: float = _share(0.1, "drugs", "that are new in validation", 0)
    val_line_fraction: float = _share(0.1, "lines", "that are new in validation", 0)


class DoseSplit(Generated):
    """Test = one dose of some drugs, the other doses of which train."""

    draws = frozenset({"drugs", "lines"})

    generator: Literal["dose_interpolate", "dose_extrapolate"] = Field(
        description="the middle dose, or the top dose"
    )
    drug_fraction: float = _share(0.2, "drugs", "that have a dose in the test")
    val_drug_fraction: float = _share(0.1, "drugs", "that have a dose in validation", 0)
    line_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of lines in which that dose is held out; 1: it is never seen",
        json_schema_extra=unit("share of lines"),
    )

    @model_validator(mode="after")
    def _lines_are_drawn(self) -> DoseSplit:
        if self.line_fraction == 1 and self.stratify.lines is not None:
            raise ValueError("stratify.lines has no effect: with line_fraction 1, no line is drawn")
        return self


class PlateOut(Generated):
    """Test = all conditions with cells on some plates (batches)."""

    generator: Literal["plate_out"] = Field(description="whole plates")
    plates: list[str] | None = Field(None, description="these plates test; null: drawn")
    plate_fraction: float = _share(0.1, "plates", "that test, if drawn")
    val_plate_fraction: float = _share(0.1, "plates", "that validate", 0)


class GroupOut(Generated):
    """Test = all drugs of some groups: of a mechanism, or of a chemical scaffold."""

    generator: Literal["moa_out", "scaffold_out"] = Field(
        description="groups of drugs: by a column of the drug table, or by Bemis-Murcko scaffold"
    )
    group: str | None = Field(None, description="moa_out: column of the drug table")
    drug_fraction: float = _share(0.2, "drugs", "that test, to within one group")
    val_drug_fraction: float = _share(0.1, "drugs", "that validate, to within one group", 0)

    @model_validator(mode="after")
    def _has_groups(self) -> GroupOut:
        if self.drug_table is None:
            raise ValueError(f"{self.generator} needs a drug_table: {{path: FILE, name: COLUMN}}")
        if self.generator == "moa_out" and self.group is None:
            raise ValueError("moa_out needs group: the column of the drug table that names them")
        if self.generator == "scaffold_out" and self.group is not None:
            raise ValueError("group has no effect: scaffold_out makes the groups itself")
        if self.generator == "scaffold_out" and self.drug_table.smiles is None:
            raise ValueError("scaffold_out needs drug_table.smiles: the column with structures")
        return self


class Folds(Generated):
    """k disjoint folds, so that every condition is tested once; the next fold validates."""

    k: int = Field(
        ge=2,
        le=10_000,
        description="number of folds; as many as there are lines or drugs: leave one out",
        json_schema_extra=unit("folds"),
    )
    val: bool = Field(True, description="the next fold validates")


class LineFolds(Folds):
    """k disjoint folds over lines: every condition is tested once, in a line never trained on."""

    draws = frozenset({"lines"})

    generator: Literal["line_folds"] = Field(description="leave lines out")


class PerturbationFolds(Folds):
    """k disjoint folds over drugs (all doses): every condition is tested once, its drug unseen."""

    draws = frozenset({"drugs"})

    generator: Literal["perturbation_folds"] = Field(description="leave drugs out")


class TomlSplit(Held):
    """A split written by hand or by another tool, in cell-load's TOML."""

    toml: str = Field(description="path of the TOML file")
    compat: bool = Field(
        False,
        description="what cell-load ignores in such a file is a warning instead of an error",
    )
    allow: list[str] = Field(
        [], description="checks whose errors are meant and become warnings, such as `split-doses`"
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
