"""Commands of ``statetx``."""
