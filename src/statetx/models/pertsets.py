"""Public name of the network: ``statetx.models.pertsets.PertSets``."""

from statetx.models.network.set_transformer import PertSets as PertSets
from statetx.models.network.set_transformer import Prediction as Prediction
