"""Settings of data sets: where cells are and what their columns mean."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from statetx.config.sections import Section, unit
from statetx.core.errors import did_you_mean
from statetx.shared.spelling import pattern


class Simulate(Section):
    """Planted-truth data: sparse, dose-monotone, partly line-specific effects on counts."""

    n_lines: int = Field(
        10, ge=1, le=10_000, description="cell lines", json_schema_extra=unit("cell lines")
    )
    n_drugs: int = Field(20, ge=1, le=100_000, description="drugs", json_schema_extra=unit("drugs"))
    doses: list[float] = Field(
        [0.05, 0.5, 5.0],
        min_length=1,
        description="doses of every drug, uM",
        json_schema_extra=unit("uM"),
    )
    cells_per_condition: int = Field(
        40, ge=2, description="mean number of cells per condition", json_schema_extra=unit("cells")
    )
    controls_per_line: int = Field(
        400, ge=4, description="control cells per line", json_schema_extra=unit("cells")
    )
    n_genes: int = Field(1000, ge=20, description="genes in X", json_schema_extra=unit("genes"))
    n_hvg: int = Field(
        400, ge=10, description="genes in obsm X_hvg", json_schema_extra=unit("genes")
    )
    seed: int = Field(0, description="seed of the planted truth and of the cells")


def labels_setting(value: str) -> str:
    """Return a setting of how labels are read as it is.

    Raises
    ------
    ValueError
        It is neither a known word nor a format.
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
    """Single-cell data and what its columns mean."""

    files: Literal["simulate"] | list[str] = Field(
        description="`simulate`, or paths and globs of h5ad files; `{data_root}` is replaced"
    )
    simulate: Simulate = Field(Simulate(), description="settings of `files: simulate`")
    pert_col: str = Field("drug_dose", description="obs column with the perturbation label")
    cell_type_key: str = Field("cell_line", description="obs column with the cell line (context)")
    batch_col: str | None = Field(
        "batch", description="obs column with the batch (plate); null: one batch"
    )
    control_pert: str | list[str] = Field(
        description="control label; a list: the first is canonical, the others are aliases of it"
    )
    scale: Literal["counts", "log1p"] = Field(description="what X holds; checked, never guessed")
    target_sum: float = Field(
        10000.0,
        gt=0,
        description="log1p = ln(1 + target_sum * count / total)",
        json_schema_extra=unit("counts per cell"),
    )
    total_counts_col: str | None = Field(
        None, description="obs column with a cell's total counts; null: row sum over all genes"
    )
    expression_key: str | None = Field(
        None,
        description="obsm matrix (log1p, genes named in uns['hvg_names']) in which all models "
        "predict and are scored; null: X",
    )
    embed_keys: list[str] = Field([], description="further obsm matrices to pack")
    labels_are_genes: bool = Field(
        False, description="a label may name its target gene (CRISPR screens)"
    )
    labels: str = Field(
        "auto",
        description="how labels are read: `drug_dose` (a number at the end is a dose: `Drug_0.5`), a format "
        "such as `{drug}@{dose}{unit}`, `plain` (names: ids, guides, time points), or `auto` (decided by all "
        "labels, see docs/splits.md)",
    )
    genes: Literal["same", "intersect"] = Field(
        "same",
        description="files with different genes: an error, or keep those that all files have",
    )
    embed_dtype: Literal["float32", "float16"] = Field(
        "float32",
        description="of packed embeddings (X is packed exactly)",
    )
    control_match: list[list[str]] | None = Field(
        None,
        description="obs columns that a cell shares with its control, in order of preference; null: "
        "line and batch, then line",
    )

    def match_by_batch(self) -> list[bool]:
        """The levels of `control_match`: whether the batch must agree too."""
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
                    f"control_match: {level} would give controls of other cell lines; every entry "
                    f"names {self.cell_type_key!r}"
                )
        if self.control_match == []:
            raise ValueError("control_match: list at least one combination of columns, or null")
        return self

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "simulate" else value
