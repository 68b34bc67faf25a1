"""Rank-sum tests, sorting, distances over pairs of cells: the numbers below the scores."""
