"""Groups of drugs that are held out whole: mechanisms, scaffolds."""

from __future__ import annotations

from statetx.splits.grid import Grid, Known


def merged(grid: Grid, known: Known) -> dict[str, str]:
    """Return the group of each drug; groups that share a compound, under two names, are one."""
    same: dict[str, str] = {}

    def root(group: str) -> str:
        while group in same:
            group = same[group]
        return group

    found = dict(known.groups)
    for other, drug in grid.compounds.items():
        if other in found and drug in found:
            one, two = root(found[other]), root(found[drug])
            if one != two:
                same[max(one, two)] = min(one, two)
        elif other in found:
            found[drug] = found[other]
    return {drug: root(group) for drug, group in found.items()}


def closest(order: list[str], members: dict[str, list[str]], wanted: int) -> set[str]:
    """Return groups whose number of members is close to `wanted`, first come, first taken."""
    taken: set[str] = set()
    n = 0
    for name in order:
        closer = abs(n - wanted) - abs(n + len(members[name]) - wanted)
        if closer > 0 or (closer == 0 and not taken and wanted):
            taken.add(name)
            n += len(members[name])
    return taken
