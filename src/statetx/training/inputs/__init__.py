"""Sets, features and controls that a training reads."""
