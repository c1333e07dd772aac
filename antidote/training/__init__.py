"""The training loop, its recipes and objectives."""
