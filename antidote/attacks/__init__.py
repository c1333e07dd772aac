"""Attacks, one per file; `antidote.base.registry` lists the attacks."""
