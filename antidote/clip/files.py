"""File names of a model folder, for all code that reads or declares such folders; does not import torch."""

CONFIG, WEIGHTS, CARD = "open_clip_config.json", "open_clip_model.safetensors", "card.json"
TRAINING_LOG = "train.jsonl"
# The adapter of a defense, or of the user under a few-shot attack. A model without an adapter has {"adapter": null} and
# no tensors, so that every model folder holds the same files.
ADAPTER, ADAPTER_WEIGHTS = "adapter.json", "adapter.safetensors"
SUSPICIOUS = "suspicious.json"  # pairs that a defense suspects to be poisoned, if the defense names pairs
STARTED_FROM_FOLDER = "a model folder"  # `started_from` in the card of a model whose training began at another model
