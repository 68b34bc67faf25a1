"""Generators, which make splits from settings."""
