"""The verdict: pooled scores, intervals, and one call per metric."""
