"""Settings of data sets: the source files and the meaning of their columns."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from statetx.config.sections import Section, unit
from statetx.core.errors import did_you_mean
from statetx.shared.label_parsing import pattern


class Simulate(Section):
    """Simulated counts with known effects: sparse, dose-monotone, partly specific to a line."""

    n_lines: int = Field(
        10,
        ge=1,
        le=10_000,
        description="number of cell lines",
        json_schema_extra=unit("cell lines"),
    )
    n_drugs: int = Field(
        20, ge=1, le=100_000, description="number of drugs", json_schema_extra=unit("drugs")
    )
    doses: list[float] = Field(
        [0.05, 0.5, 5.0],
        min_length=1,
        description="doses of every drug",
        json_schema_extra=unit("uM"),
    )
    cells_per_condition: int = Field(
        40, ge=2, description="mean number of cells per condition", json_schema_extra=unit("cells")
    )
    controls_per_line: int = Field(
        400, ge=4, description="number of control cells per line", json_schema_extra=unit("cells")
    )
    n_genes: int = Field(
        1000, ge=20, description="number of genes in X", json_schema_extra=unit("genes")
    )
    n_hvg: int = Field(
        400,
        ge=10,
        description="number of highly variable genes in obsm X_hvg",
        json_schema_extra=unit("genes"),
    )
    seed: int = Field(0, description="random seed of the effects and of the cells")


def labels_setting(value: str) -> str:
    """Return the setting ``labels`` unchanged if it is valid.

    Parameters
    ----------
    value
        ``auto``, ``drug_dose``, ``plain``, or a format such as ``{drug}_{dose}{unit}``.

    Raises
    ------
    ValueError
        The value is not a known word, and not a valid format.
    """
    words = ("auto", "drug_dose", "plain")
    if "{" in value:
        pattern(value)
    elif value not in words:
        raise ValueError(
            f"labels: {value!r} is neither a known word nor a format such as "
            f"{{drug}}_{{dose}}{{unit}}; {did_you_mean(value, words)}"
        )
    return value


class Dataset(Section):
    """Source files of a data set, and the meaning of their columns."""

    files: Literal["simulate"] | list[str] = Field(
        description="paths or globs of h5ad files, or `simulate`; `{data_root}` is replaced"
    )
    simulate: Simulate = Field(Simulate(), description="settings of `files: simulate`")
    pert_col: str = Field("drug_dose", description="obs column with the perturbation label")
    cell_type_key: str = Field("cell_line", description="obs column with the cell line or context")
    batch_col: str | None = Field(
        "batch", description="obs column with the batch or plate; null: all cells are one batch"
    )
    control_pert: str | list[str] = Field(
        description="label of the control; in a list, the first label is canonical and the others "
        "are aliases"
    )
    scale: Literal["counts", "log1p"] = Field(
        description="values in X: raw counts or log1p expression; checked, never guessed"
    )
    target_sum: float = Field(
        10000.0,
        gt=0,
        description="total that every cell is normalised to: log1p = ln(1 + target_sum * count / "
        "total)",
        json_schema_extra=unit("counts per cell"),
    )
    total_counts_col: str | None = Field(
        None,
        description="obs column with the total counts of a cell; null: sum of the counts over all "
        "genes",
    )
    expression_key: str | None = Field(
        None,
        description="obsm matrix that all models predict and are scored in: log1p expression of "
        "the genes named in uns['hvg_names']; null: X",
    )
    embed_keys: list[str] = Field([], description="other obsm matrices to pack, such as embeddings")
    labels_are_genes: bool = Field(
        False, description="whether a label may name its target gene, as in CRISPR screens"
    )
    labels: str = Field(
        "auto",
        description="how labels are read: `drug_dose` (a number at the end is a dose: `Drug_0.5`), "
        "a format such as `{drug}@{dose}{unit}`, `plain` (the label is a name: ids, guides, time "
        "points), or `auto` (decided from all labels, see docs/splits.md)",
    )
    genes: Literal["same", "intersect"] = Field(
        "same",
        description="files with different genes: report an error (`same`), or keep only the genes "
        "that all files share (`intersect`)",
    )
    embed_dtype: Literal["float32", "float16"] = Field(
        "float32",
        description="number format of packed embeddings; X is always packed exactly",
    )
    control_match: list[list[str]] | None = Field(
        None,
        description="obs columns in which a cell and its control must agree, as a list in order of "
        "preference; null: line and batch, then line only",
    )

    def match_by_batch(self) -> list[bool]:
        """Return for each level of `control_match` whether the batch must agree too."""
        if self.control_match is None:
            return [False] if self.batch_col is None else [True, False]
        return [self.batch_col in level for level in self.control_match]

    @field_validator("labels")
    @classmethod
    def _labels_known(cls, value: str) -> str:
        return labels_setting(value)

    @model_validator(mode="after")
    def _match_known(self) -> Dataset:
        for level in self.control_match or []:
            for name in level:
                if name not in (self.cell_type_key, self.batch_col):
                    known = [c for c in (self.cell_type_key, self.batch_col) if c]
                    raise ValueError(
                        f"control_match: {name!r} is neither cell_type_key nor batch_col; "
                        f"{did_you_mean(name, known)}"
                    )
            if self.cell_type_key not in level:
                raise ValueError(
                    f"control_match: {level} would give controls of other cell lines; add "
                    f"{self.cell_type_key!r} to every entry"
                )
        if self.control_match == []:
            raise ValueError("control_match: list at least one combination of columns, or null")
        return self

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "simulate" else value
