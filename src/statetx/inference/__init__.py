"""Predictions of trained models, written as h5ad files."""
