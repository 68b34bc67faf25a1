"""Draw names at random, in proportion to strata, so that a seed means the same draw everywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from statetx.core.errors import SplitError

GOLDEN = (5**0.5 - 1) / 2


def ordered(
    names: Collection[str], seed: int, stream: str, strata: Mapping[str, str] | None = None
) -> list[str]:
    """Return names in random order; any stretch of it holds the strata in proportion.

    Systematic sampling: the members of a stratum of n, in random order, are spread evenly over
    [0, 1), with a random start below 1/n, and all are sorted by that place. A stretch that holds the
    share f of all names then holds f n members of the stratum, to within one or two. The starts of
    different strata are spread evenly too (multiples of the golden ratio from a random number): drawn
    one by one, those of thirty strata of one name crowd, and push the others aside.

    Parameters
    ----------
    names
        What is drawn from.
    seed
        Seed of the draw.
    stream
        What the draw is about: drugs and lines have streams of their own, so that a new drug does
        not redraw the lines.
    strata
        Stratum by name; None: one for all.
    """
    found = sorted(names)
    generator = np.random.default_rng([seed, *stream.encode()])
    shuffled = [found[i] for i in generator.permutation(len(found))]
    if strata is None:
        return shuffled
    members: dict[str, list[str]] = {}
    for name in shuffled:
        members.setdefault(strata[name], []).append(name)
    first = generator.random()
    blocks = sorted(members.values(), key=len)  # strata of one size are in random order
    places = {
        name: (i + (first + number * GOLDEN) % 1.0) / len(block)
        for number, block in enumerate(blocks)
        for i, name in enumerate(block)
    }
    return sorted(shuffled, key=lambda name: places[name])


def count(share: float, n: int, what: str, key: str) -> int:
    """Return how many of n units a share is: the nearest number, halves up.

    Raises
    ------
    SplitError
        The share rounds to no unit at all.
    """
    # The small term undoes binary fractions such as 0.35 * 10 = 3.4999999999999996.
    number = math.floor(share * n + 0.5 + 1e-9)
    if number == 0:
        raise SplitError(
            f"{share:g} of {n} {what} rounds to none",
            where=key,
            fix=f"use at least {math.ceil(50 / max(n, 1)) / 100:g}",
        )
    return number


def count_val(share: float, n: int) -> int:
    """Return how many of n units validate: none for 0, at least one otherwise."""
    return 0 if share == 0 else max(1, math.floor(share * n + 0.5 + 1e-9))


def parts(
    order: list[str], n_test: int, n_val: int, what: str, keys: str, rest: int = 1
) -> tuple[set[str], set[str], set[str]]:
    """Return the names that test, those that validate, and the others.

    The test units do not depend on how many validate.

    Parameters
    ----------
    order
        Names in random order.
    n_test, n_val
        How many of them.
    what, keys
        Names and settings in words, for the message.
    rest
        How many must be left for training.

    Raises
    ------
    SplitError
        There are fewer names than that.
    """
    held = n_test + n_val
    if n_test >= len(order) or held + rest > len(order):
        raise SplitError(
            f"{len(order)} {what} are too few for {n_test} in the test and {n_val} in validation",
            where=keys,
            fix="lower the fractions, set the validation fractions to 0, or use folds",
        )
    return set(order[:n_test]), set(order[n_test:held]), set(order[held:])
