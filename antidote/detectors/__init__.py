"""Detectors, one per file; `antidote.registry` lists them."""
