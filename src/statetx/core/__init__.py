"""Base of all other packages: files, errors, locks, signals."""
