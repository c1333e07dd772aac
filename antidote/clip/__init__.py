"""CLIP models: created, loaded, saved, adapted."""
