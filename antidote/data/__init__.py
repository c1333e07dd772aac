"""Datasets: sources of pairs, storage, and the pools that assign pairs to training, poisoning and defense."""
