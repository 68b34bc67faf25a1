"""Parts that baselines share."""
