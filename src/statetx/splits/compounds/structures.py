"""Keys of chemical structures, to find compounds with two names and compounds with one scaffold.

RDKit is optional (extra ``chemistry``). Without RDKit, structures are compared by their SMILES as
written, which finds fewer duplicates. Scaffolds need RDKit.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from statetx.core.errors import ConfigError


def available() -> bool:
    """Return whether RDKit is installed."""
    return importlib.util.find_spec("rdkit") is not None


def structure_key(smiles: str, name: str) -> str:
    """Return a key that is equal for different salts and spellings of a compound.

    The key is the first block of the InChIKey of the largest fragment. It encodes connectivity
    without stereochemistry, protons or counter-ions. Without RDKit, the key is the SMILES itself.

    Parameters
    ----------
    smiles
        The structure as SMILES.
    name
        Name of the drug, for the message.

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
    """Return the Bemis-Murcko scaffold as SMILES.

    A compound without rings gets a key of its structure instead. RDKit
    computes the scaffold of the largest fragment (Bemis & Murcko 1996, J. Med. Chem.).

    Parameters
    ----------
    smiles
        The structure as SMILES.
    name
        Name of the drug, for the message.

    Raises
    ------
    ConfigError
        RDKit is not installed, or cannot read the SMILES.
    """
    if not available():
        raise ConfigError(
            "scaffolds need RDKit, which is not installed",
            where="splits.*.generator: scaffold_out",
            fix="run pip install 'statetx[chemistry]', or use moa_out with a column of scaffolds",
        )
    from rdkit.Chem.Scaffolds import MurckoScaffold

    murcko = str(MurckoScaffold.MurckoScaffoldSmiles(mol=_largest_fragment(smiles, name)))
    return murcko or f"no rings: {structure_key(smiles, name)}"


@functools.cache
def _largest_fragment(smiles: str, name: str) -> Any:
    from rdkit import Chem, rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    with rdBase.BlockLogs():  # the error below replaces RDKit's message
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None:
            raise ConfigError(
                f"RDKit cannot read the structure of {name!r}: {smiles!r}",
                where="drug_table.smiles",
                fix="correct the SMILES or leave it empty",
            )
        fragments = Chem.GetMolFrags(molecule, asMols=True)
        largest = max(fragments, key=lambda fragment: fragment.GetNumHeavyAtoms())
        # A charged salt, such as omeprazole sodium, would have a different connectivity.
        return rdMolStandardize.Uncharger().uncharge(largest)
