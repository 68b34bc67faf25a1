"""Kinds of model, a module for each kind."""
