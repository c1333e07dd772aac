"""Detectors, one per file; `antidote.base.registry` lists them."""
