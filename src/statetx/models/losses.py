"""Public name of the losses: ``statetx.models.losses.energy``."""

from statetx.models.network.losses import energy as energy
