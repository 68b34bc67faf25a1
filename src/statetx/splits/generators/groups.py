"""Groups of drugs that are held out together, such as mechanisms or scaffolds."""

from __future__ import annotations

from statetx.splits.grid import Grid, Known


def merged(grid: Grid, known: Known) -> dict[str, str]:
    """Return the group of each drug, after merging groups that contain the same compound.

    A compound can have two names, and a table can list them in two groups.

    Parameters
    ----------
    grid
        The conditions, with the names of each compound.
    known
        Facts about drugs, with their groups.
    """
    same: dict[str, str] = {}

    def root(group: str) -> str:
        while group in same:
            group = same[group]
        return group

    group_of = dict(known.groups)
    for other, drug in grid.compounds.items():
        if other in group_of and drug in group_of:
            first, second = root(group_of[other]), root(group_of[drug])
            if first != second:
                same[max(first, second)] = min(first, second)
        elif other in group_of:
            group_of[drug] = group_of[other]
    return {drug: root(group) for drug, group in group_of.items()}


def closest(order: list[str], members: dict[str, list[str]], wanted: int) -> set[str]:
    """Choose groups whose total number of members is close to `wanted`.

    Groups are taken in the given order, each if it brings the total closer to `wanted`.

    Parameters
    ----------
    order
        Names of the groups.
    members
        Drugs of each group.
    wanted
        Number of drugs.
    """
    taken: set[str] = set()
    n = 0
    for name in order:
        closer = abs(n - wanted) - abs(n + len(members[name]) - wanted)
        if closer > 0 or (closer == 0 and not taken and wanted):
            taken.add(name)
            n += len(members[name])
    return taken
