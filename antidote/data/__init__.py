"""Datasets: where pairs come from, how they are stored, and which of them serve for what."""
