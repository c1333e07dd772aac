"""File names of a model folder; what reads or declares such a folder takes them from here, without importing torch."""

CONFIG, WEIGHTS, CARD = "open_clip_config.json", "open_clip_model.safetensors", "card.json"
TRAINING_LOG = "train.jsonl"
# What a defense, or the user under a few-shot attack, has added to the network: {"adapter": null} and no tensors for
# nothing, so that every model folder holds the same files.
ADAPTER, ADAPTER_WEIGHTS = "adapter.json", "adapter.safetensors"
SUSPICIOUS = "suspicious.json"  # the pairs that a defense holds for poisoned, of a defense that names some
