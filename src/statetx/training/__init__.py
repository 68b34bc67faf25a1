"""Fitting of models on the training conditions of a plan."""
