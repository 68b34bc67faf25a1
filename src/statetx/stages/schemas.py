"""JSON schemas of the files that stages exchange, written into ``workflow/schemas``."""

from __future__ import annotations

from pathlib import Path

from statetx.core.contracts import Contract
from statetx.core.text_files import write_text
from statetx.evaluation.verdict.contract import Verdict

CONTRACTS: dict[str, type[Contract]] = {"verdict": Verdict}
"""Name of the file without its ending -> what it holds."""


def write_schemas(directory: Path) -> None:
    """Write one schema per contract."""
    for name, contract in CONTRACTS.items():
        write_text(directory / f"{name}.schema.json", contract.schema_text())


if __name__ == "__main__":
    write_schemas(Path("workflow/schemas"))
