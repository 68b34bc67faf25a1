"""Data of an experiment, from source files to batches."""
