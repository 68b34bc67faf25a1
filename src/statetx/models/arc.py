"""Public name of the reader of State checkpoints: ``statetx.models.arc.load``."""

from statetx.models.imported.arc import load as load
