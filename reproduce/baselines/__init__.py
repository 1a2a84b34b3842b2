"""Baselines, on the same split, loaders, trainer and ranking as stage 2; see `reproduce.baseline`."""
