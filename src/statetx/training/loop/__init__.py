"""The training loop of networks and its callbacks."""
