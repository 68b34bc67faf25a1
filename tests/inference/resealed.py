"""A model directory whose description a test changes."""

import json
from pathlib import Path
from typing import Any

from statetx.core.digests import sealed


def reseal(model: Path, meta: dict[str, Any]) -> None:
    """Write model.json with the digest of its new content."""
    body = {key: value for key, value in meta.items() if key != "digest"}
    (model / "model.json").write_text(json.dumps(sealed(body)), encoding="utf-8")
