"""The embedded dataset: synthetic scenes, generated from a seed."""
