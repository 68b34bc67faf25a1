"""Sets of cells, drawn from the store as batches."""
