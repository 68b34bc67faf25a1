"""Import of checkpoints that State wrote."""
