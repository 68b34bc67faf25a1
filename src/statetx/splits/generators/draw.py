"""Random draws of names, in proportion to strata; a seed always gives the same draw."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from statetx.core.errors import SplitError

GOLDEN = (5**0.5 - 1) / 2


def ordered(
    names: Collection[str], seed: int, stream: str, strata: Mapping[str, str] | None = None
) -> list[str]:
    """Return names in random order, such that any stretch holds the strata in proportion.

    The method is systematic sampling. The n members of a stratum are shuffled and spread evenly
    over [0, 1), with a random start below 1/n. All names are then sorted by position. A stretch
    with a share f of all names holds f n members of the stratum, to within one or two.

    The starts of the strata are multiples of the golden ratio, added to a random number, and are
    spread evenly too. Independent random starts would cluster: thirty strata with a single name
    each would displace the other strata.

    Parameters
    ----------
    names
        Names to draw from.
    seed
        Seed of the draw.
    stream
        Name of the random stream. Drugs and lines have separate streams, so that a new drug does
        not change which lines are drawn.
    strata
        Stratum of each name; None: a single stratum.
    """
    available = sorted(names)
    generator = np.random.default_rng([seed, *stream.encode()])
    shuffled = [available[i] for i in generator.permutation(len(available))]
    if strata is None:
        return shuffled
    members: dict[str, list[str]] = {}
    for name in shuffled:
        members.setdefault(strata[name], []).append(name)
    first = generator.random()
    blocks = sorted(members.values(), key=len)  # strata of equal size stay in random order
    places = {
        name: (i + (first + number * GOLDEN) % 1.0) / len(block)
        for number, block in enumerate(blocks)
        for i, name in enumerate(block)
    }
    return sorted(shuffled, key=lambda name: places[name])


def count(share: float, n: int, what: str, key: str) -> int:
    """Convert a share of n units to the nearest number of units; halves are rounded up.

    Parameters
    ----------
    share
        Share of the units, 0 to 1.
    n
        Number of all units.
    what, key
        Name of the units, and the setting of the share, for the message.

    Raises
    ------
    SplitError
        The share rounds to zero units.
    """
    # The small term corrects binary fractions such as 0.35 * 10 = 3.4999999999999996.
    number = math.floor(share * n + 0.5 + 1e-9)
    if number == 0:
        raise SplitError(
            f"{share:g} of {n} {what} rounds to zero",
            where=key,
            fix=f"use at least {math.ceil(50 / max(n, 1)) / 100:g}",
        )
    return number


def count_val(share: float, n: int) -> int:
    """Return the number of validation units: 0 for a share of 0, otherwise at least 1."""
    return 0 if share == 0 else max(1, math.floor(share * n + 0.5 + 1e-9))


def parts(
    order: list[str], n_test: int, n_val: int, what: str, keys: str, rest: int = 1
) -> tuple[set[str], set[str], set[str]]:
    """Divide names into test, validation and remaining names.

    The test names do not depend on the number of validation names.

    Parameters
    ----------
    order
        Names in random order.
    n_test, n_val
        Numbers of test and of validation names.
    what, keys
        Word for the names, and their settings, for the message.
    rest
        Smallest number of names that must remain.

    Raises
    ------
    SplitError
        There are too few names.
    """
    held = n_test + n_val
    if n_test >= len(order) or held + rest > len(order):
        raise SplitError(
            f"{len(order)} {what} are too few for {n_test} in test and {n_val} in validation",
            where=keys,
            fix="lower the fractions, set the validation fractions to 0, or use folds",
        )
    return set(order[:n_test]), set(order[n_test:held]), set(order[held:])
