"""Columns, tables and commands of cell-eval, reproduced."""
