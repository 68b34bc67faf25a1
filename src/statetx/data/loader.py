"""Public name of the loader of cell sets: ``statetx.data.loader.SetLoader``."""

from statetx.data.sets.loader import SetLoader as SetLoader
