"""Train, predict, score and judge models of how cell populations respond to perturbations."""
