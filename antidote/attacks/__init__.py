"""Attacks, one per file; `antidote.registry` lists them."""
