"""Checks of a split before it is written."""
