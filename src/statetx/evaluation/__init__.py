"""Scores of predictions, and the verdict on a model."""
