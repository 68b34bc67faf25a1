"""Readers of h5ad source files."""
