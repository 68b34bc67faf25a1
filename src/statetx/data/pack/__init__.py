"""Packing of h5ad files into the store of a data set."""
