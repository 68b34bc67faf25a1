"""Scores of any two h5ad files, without store or plan."""
