"""Meaning of labels, tables, random seeds, bounds of expression: helpers of several packages."""
