"""Stages of the workflow: their paths, settings, inputs, records."""
