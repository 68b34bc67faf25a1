"""Random numbers that depend on nothing but the names of what is drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: object) -> np.random.Generator:
    """Return a generator that depends on nothing but `key` (numbers and strings)."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in key).encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))
