"""Detectors: suspicion scores of models, training pairs or pictures. One detector per file."""
