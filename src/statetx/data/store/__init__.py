"""The packed store of a data set."""
