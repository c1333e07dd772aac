"""File names of a trigger folder."""

TENSORS, DESCRIPTION = "trigger.safetensors", "trigger.json"
