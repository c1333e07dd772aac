"""open_clip's tags of pretrained weights, read without importing torch: studies are checked when they are read."""

import importlib
import sys
import types
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "_open_clip_tags"
HEAVY = ("safetensors.torch", "huggingface_hub")  # optional imports of open_clip's table


def tag(model: str, name: str) -> dict[str, Any] | None:
    """Return open_clip's entry of a model's tag, such as `quick_gelu` (bool); None for an unknown tag."""
    return _table().get_pretrained_cfg(model, name) or None


def tags(model: str) -> list[str]:
    """Return the tags of a model; [] for a model without tags."""
    return _table().list_pretrained_tags_by_model(model)


@cache
def _table() -> types.ModuleType:
    """Return open_clip's module of tags, imported alone; the package's own __init__ would import torch."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(Path(find_spec("open_clip").origin).parent)]
    hidden = dict.fromkeys(name for name in HEAVY if name not in sys.modules)
    sys.modules.update({PACKAGE: package, **hidden})
    try:
        return importlib.import_module(f"{PACKAGE}.pretrained")
    finally:
        for name in hidden:
            del sys.modules[name]
