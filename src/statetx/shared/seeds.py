"""Random number generators that are seeded by names, so that results do not depend on order."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: object) -> np.random.Generator:
    """Return a random number generator that depends on `key` only.

    Parameters
    ----------
    *key
        Numbers and strings; the type of each counts too.
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in key).encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))
