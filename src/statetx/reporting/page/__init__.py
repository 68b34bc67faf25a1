"""The page of an experiment, one HTML file."""
