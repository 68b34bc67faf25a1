"""Chemical structures as keys: the same compound under two names, compounds of one scaffold.

RDKit is optional (extra ``chemistry``). Without it, structures are compared by their SMILES as
written, which finds fewer doubles; scaffolds need it.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from statetx.core.errors import ConfigError


def available() -> bool:
    """Whether RDKit is installed."""
    return importlib.util.find_spec("rdkit") is not None


def structure_key(smiles: str, name: str) -> str:
    """Return a key that is equal for one compound in different salts and spellings.

    The first block of the InChIKey of the largest fragment: connectivity without stereochemistry,
    protons or counter-ions. Without RDKit, the SMILES itself.

    Parameters
    ----------
    smiles
        The structure.
    name
        Whose it is, for the message.

    Raises
    ------
    ConfigError
        RDKit cannot read the SMILES.
    """
    if not available():
        return smiles.strip()
    from rdkit import Chem

    key = str(Chem.MolToInchiKey(_largest_fragment(smiles, name)))
    return key.partition("-")[0] or smiles.strip()


def scaffold(smiles: str, name: str) -> str:
    """Return the Bemis-Murcko scaffold as SMILES; a compound without rings is its own scaffold.

    Bemis & Murcko 1996, J. Med. Chem.; RDKit's implementation, of the largest fragment.

    Raises
    ------
    ConfigError
        RDKit is not installed, or cannot read the SMILES.
    """
    if not available():
        raise ConfigError(
            "scaffolds need RDKit, which is not installed",
            where="splits.*.generator: scaffold_out",
            fix="pip install 'statetx[chemistry]', or moa_out with a column of scaffolds",
        )
    from rdkit.Chem.Scaffolds import MurckoScaffold

    found = str(MurckoScaffold.MurckoScaffoldSmiles(mol=_largest_fragment(smiles, name)))
    return found or f"no rings: {structure_key(smiles, name)}"


@functools.cache
def _largest_fragment(smiles: str, name: str) -> Any:
    from rdkit import Chem, rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    with rdBase.BlockLogs():  # our own message says it
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None:
            raise ConfigError(
                f"RDKit cannot read the structure of {name!r}: {smiles!r}",
                where="drug_table.smiles",
                fix="correct the SMILES or leave it empty",
            )
        fragments = Chem.GetMolFrags(molecule, asMols=True)
        largest = max(fragments, key=lambda fragment: fragment.GetNumHeavyAtoms())
        # A salt such as omeprazole sodium has another connectivity as long as it is charged.
        return rdMolStandardize.Uncharger().uncharge(largest)
