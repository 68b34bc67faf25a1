"""Generator of the JSON schema and of the tables of keys in ``config/README.md``.

``python -m statetx.config.document`` (or ``make docs``) rewrites both files. A test fails if they
differ from the code.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from statetx.config import datasets, models, sections, splits
from statetx.config.root import Config
from statetx.config.sections import Section

SCHEMA = Path("workflow/schemas/config.schema.json")
REFERENCE = Path("config/README.md")
BEGIN, END = "<!-- generated: make docs -->", "<!-- end of the generated part -->"

TABLES: tuple[tuple[str, type[Section]], ...] = (
    ("Top level", Config),
    ("`datasets.<name>`", datasets.Dataset),
    ("`datasets.<name>.simulate`", datasets.Simulate),
    ("`splits.<name>`, generator `dc_block`", splits.BlockSplit),
    ("`splits.<name>`, generator `pair_random`", splits.PairRandom),
    ("`splits.<name>`, generator `context_fewshot`", splits.ContextFewshot),
    ("`splits.<name>`, generator `line_out`", splits.LineOut),
    ("`splits.<name>`, generator `drug_out`", splits.DrugOut),
    ("`splits.<name>`, generator `both_out`", splits.BothOut),
    ("`splits.<name>`, generators `dose_interpolate`, `dose_extrapolate`", splits.DoseSplit),
    ("`splits.<name>`, generator `plate_out`", splits.PlateOut),
    ("`splits.<name>`, generators `moa_out`, `scaffold_out`", splits.GroupOut),
    ("`splits.<name>`, generator `line_folds`", splits.LineFolds),
    ("`splits.<name>`, generator `perturbation_folds`", splits.PerturbationFolds),
    ("`splits.<name>.drug_table`", splits.DrugTable),
    ("`splits.<name>.line_table`", splits.LineTable),
    ("`splits.<name>.stratify`", splits.Stratify),
    ("`splits.<name>`, from a TOML file", splits.TomlSplit),
    ("`models.<name>`, kind `no_change`", models.NoChange),
    ("`models.<name>`, kind `context_mean`", models.ContextMean),
    ("`models.<name>`, kind `perturbation_mean`", models.PerturbationMean),
    ("`models.<name>`, kind `additive`", models.Additive),
    ("`models.<name>`, kind `ridge`", models.Ridge),
    ("`models.<name>`, kind `nearest_drug`", models.NearestDrug),
    ("`models.<name>`, kind `pertsets`", models.PertSets),
    ("`models.<name>.genes`", models.Genes),
    ("`models.<name>.gene_decoder`", models.GeneDecoder),
    ("`models.<name>.sets`", models.Sets),
    ("`models.<name>.backbone`", models.Backbone),
    ("`models.<name>.training`", models.Training),
    ("`experiments.<name>`", sections.Experiment),
    ("`evaluation`", sections.Evaluation),
    ("`prune`", sections.Prune),
    ("`tracking`", sections.Tracking),
    ("`report`", sections.Report),
)


def schema() -> str:
    """Return the JSON schema of a configuration file."""
    content = Config.model_json_schema()
    content["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def reference() -> str:
    """Return the tables of all keys: key, type, default, unit, meaning."""
    return "\n".join(_tables())


def _tables() -> Iterator[str]:
    for title, section in TABLES:
        yield f"\n### {title}\n\n{(section.__doc__ or '').strip()}\n"
        yield "| key | type | default | unit | meaning |\n|---|---|---|---|---|"
        for name, field in section.model_fields.items():
            default = _default(field.default)
            extra = field.json_schema_extra
            unit = extra["unit"] if isinstance(extra, dict) else ""
            kind = _type(field.annotation)
            yield f"| `{name}` | {kind} | {default} | {unit} | {field.description} |"
    yield ""


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Section):
        return "as below"
    return f"`{json.dumps(value)}`"


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in get_args(annotation)))
    if origin is list:
        return f"list of {_type(get_args(annotation)[0])}"
    if origin is dict:
        return "mapping"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, str(annotation))


def with_reference(text: str) -> str:
    """Return `text` with the part between `BEGIN` and `END` replaced by the tables.

    Parameters
    ----------
    text
        Present content of ``config/README.md``.
    """
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{reference()}{END}{rest.split(END)[1]}"


def main() -> None:
    """Rewrite both files in the current directory."""
    SCHEMA.write_text(schema(), encoding="utf-8")
    REFERENCE.write_text(with_reference(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
