"""Scores of predicted conditions: the columns of scores.csv."""
