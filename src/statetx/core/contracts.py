"""Typed contents of the JSON files that one stage writes and others read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from statetx.core.documents import Wanted, read_json
from statetx.core.errors import StatetxError, did_you_mean
from statetx.core.records import verify
from statetx.core.text_files import write_json


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A number, or None if it is undefined. NaN and infinity become None: JSON has neither of them."""


class Part(BaseModel):
    """Part of a contract; unknown fields are errors, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Contract(Part):
    """Whole content of a JSON file.

    Attributes
    ----------
    WANTED
        Name of the file in messages, class of the error, instruction for the user.
    FORMAT
        Number of the format that this version reads and writes.
    format
        Number of the format of the file.
    """

    WANTED: ClassVar[Wanted]
    FORMAT: ClassVar[int]

    format: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file, then check it against its record and its types.

        Parameters
        ----------
        path
            The file.

        Raises
        ------
        StatetxError
            The file is missing or damaged or has another format, or a field is missing or unknown
            or has another type. The error names the file, the field and the fix.
        """
        return cls.parse(read_json(verify(path), cls.WANTED), path)

    @classmethod
    def parse(cls, content: Any, path: Path) -> Self:
        """Check the content of a file against the types of its fields.

        Parameters
        ----------
        content
            Parsed JSON.
        path
            The file, for the message.

        Raises
        ------
        StatetxError
            As in `read`.
        """
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise cls._error(f"it contains a {kind} instead of named fields", path)
        if content.get("format") != cls.FORMAT:
            raise cls._error(
                f"its format is {content.get('format')!r}, this version reads {cls.FORMAT}", path
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise cls._error(_first_problem(error, cls), path) from None

    @classmethod
    def _error(cls, problem: str, path: Path) -> StatetxError:
        return cls.WANTED.kind(
            f"{cls.WANTED.what} cannot be read: {problem}", where=path, fix=cls.WANTED.fix
        )

    def write(self, path: Path) -> None:
        """Write the fields that were given, whole or not at all.

        Parameters
        ----------
        path
            The file.
        """
        write_json(path, self.model_dump(mode="json", exclude_unset=True))

    @classmethod
    def schema_text(cls) -> str:
        """Return the JSON schema of the file as text."""
        schema = cls.model_json_schema()
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _first_problem(error: ValidationError, kind: type[BaseModel]) -> str:
    """Return a sentence that names the first wrong field, and what is wrong with it."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"field {field!r} is missing"
    if first["type"] == "extra_forbidden":
        hint = (
            did_you_mean(str(first["loc"][-1]), list(kind.model_fields))
            if len(first["loc"]) == 1
            else ""
        )
        return f"field {field!r} is unknown{'; ' + hint if hint else ''}"
    shown = repr(first["input"])
    return f"field {field!r} is {shown[:60]}: {first['msg'].lower()}"
