"""Detectors: scores of suspicion over models, training pairs or pictures. One detector per file."""
