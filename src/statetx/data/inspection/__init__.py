"""Checks of h5ad files before they are packed."""
