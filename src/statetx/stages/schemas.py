"""Generator of the JSON schemas in ``workflow/schemas``, for files that stages exchange."""

from __future__ import annotations

from pathlib import Path

from statetx.core.contracts import Contract
from statetx.core.text_files import write_text
from statetx.evaluation.verdict.contract import Verdict

CONTRACTS: dict[str, type[Contract]] = {"verdict": Verdict}
"""Contract of each file, by the name of the file without its suffix."""


def write_schemas(directory: Path) -> None:
    """Write one JSON schema per contract.

    Parameters
    ----------
    directory
        Directory of the schemas.
    """
    for name, contract in CONTRACTS.items():
        write_text(directory / f"{name}.schema.json", contract.schema_text())


if __name__ == "__main__":
    write_schemas(Path("workflow/schemas"))
