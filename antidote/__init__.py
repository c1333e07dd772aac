"""Antidote: backdoor attacks on CLIP and the defenses against them, measured by one protocol."""
