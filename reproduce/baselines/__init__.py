"""Baselines on the splits, training loop and ranking of stage 2 (`reproduce.baseline`)."""
