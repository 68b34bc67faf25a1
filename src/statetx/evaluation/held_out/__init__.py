"""References and scores of held-out cell lines of a plan."""
