"""Kinds of model, their networks and their directories on disk."""
