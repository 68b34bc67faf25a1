"""Upkeep of finished results: verification of files, removal of checkpoints."""
