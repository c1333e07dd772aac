"""Foundations used by all other packages: errors, settings, files, seeds, registry, cache, command line."""
