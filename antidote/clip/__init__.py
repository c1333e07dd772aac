"""CLIP models: creation, loading, saving, and adapters."""
