"""Splits of conditions into training, validation and test."""
