"""Settings of splits: which conditions are held out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from statetx.config.sections import Section, unit

Controls = Literal["shared", "partition"]
CONTROLS = (
    "control cells of a line: shared by all roles, or partitioned 80 / 10 / 10 between training, "
    "validation and test"
)


class BlockSplit(Section):
    """Test = some drugs (all doses) x some lines; validation = other drugs x other lines."""

    dataset: str = Field(description="name of a data set")
    generator: Literal["dc_block"] = Field(description="drug x cell-line block")
    drug_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of drugs in the test block",
        json_schema_extra=unit("share of drugs"),
    )
    line_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of lines in the test block",
        json_schema_extra=unit("share of lines"),
    )
    val_drug_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of drugs in validation; 0: none",
        json_schema_extra=unit("share of drugs"),
    )
    val_line_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of lines in validation; 0: none",
        json_schema_extra=unit("share of lines"),
    )
    seed: int = Field(0, description="seed of the draw")
    controls: Controls = Field("shared", description=CONTROLS)


class LineFolds(Section):
    """k disjoint folds over lines: every condition is tested once, in a line never trained on."""

    dataset: str = Field(description="name of a data set")
    generator: Literal["line_folds"] = Field(description="leave lines out")
    k: int = Field(
        ge=2,
        description="number of folds; the number of lines: leave one out",
        json_schema_extra=unit("folds"),
    )
    val: bool = Field(True, description="the lines of the next fold validate")
    seed: int = Field(0, description="seed of the draw")
    controls: Controls = Field("shared", description=CONTROLS)


class PerturbationFolds(Section):
    """k disjoint folds over drugs (all doses): every condition is tested once, its drug unseen."""

    dataset: str = Field(description="name of a data set")
    generator: Literal["perturbation_folds"] = Field(description="leave drugs out")
    k: int = Field(ge=2, description="number of folds", json_schema_extra=unit("folds"))
    val: bool = Field(True, description="the drugs of the next fold validate")
    seed: int = Field(0, description="seed of the draw")
    controls: Controls = Field("shared", description=CONTROLS)


class TomlSplit(Section):
    """A split written by hand or by another tool, in cell-load's TOML."""

    dataset: str = Field(description="name of a data set")
    toml: str = Field(description="path of the TOML file")
    controls: Controls = Field("shared", description=CONTROLS)


def _split_kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return "toml" if "toml" in value else value.get("generator")
    return "toml" if isinstance(value, TomlSplit) else getattr(value, "generator", None)


Split = Annotated[
    Annotated[BlockSplit, Tag("dc_block")]
    | Annotated[LineFolds, Tag("line_folds")]
    | Annotated[PerturbationFolds, Tag("perturbation_folds")]
    | Annotated[TomlSplit, Tag("toml")],
    Discriminator(_split_kind),
]
