"""Settings of a CLIP model, and requirements on its configuration. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.settings import Name, Settings

NEEDS_CAUSAL_TEXT = "need CLIP's own text encoder, which reads them as word embeddings"


def needs_own_tower(model: Mapping[str, Any]) -> str | None:
    """Return why a method that hooks layers of the picture tower does not support a model; None: supported."""
    return "needs open_clip's own vision transformer or ResNet" if model["vision_cfg"].get("timm_model_name") else None


def needs_vision_transformer(model: Mapping[str, Any]) -> str | None:
    """Return why a method for plain vision transformers does not support a model; None for a supported model."""
    vision = model["vision_cfg"]
    if vision.get("timm_model_name") or not isinstance(vision.get("layers", 12), int):
        return "needs a vision transformer with a class token"
    if vision.get("attentional_pool") or vision.get("pool_type", "tok") != "tok":
        return "needs a vision transformer that pools by its class token"
    return None


def resnet_tower(model: Mapping[str, Any]) -> bool:
    """Return whether the picture tower is open_clip's ResNet, whose `layers` are one number per stage."""
    vision = model.get("vision_cfg", {})
    return not vision.get("timm_model_name") and isinstance(vision.get("layers"), list | tuple)


class ModelSettings(Settings):
    """The CLIP model of the study."""

    name: str = Field("tiny-rn", description="name of an open_clip model, or of a file in data/models")
    pretrained: Name | None = Field(
        None,
        description="initial weights: a tag of open_clip, the path of a checkpoint file (safetensors, torch's, "
        "OpenAI's), or of an open_clip model folder; `zoo:NAME`, a model of the zoo; empty: random weights",
    )
    quick_gelu: bool = Field(False, description="QuickGELU activations, required by OpenAI's weights")


def causal_text(model: Mapping[str, Any]) -> bool:
    """Return `Clip.causal` for an open_clip model configuration, without building the model."""
    text = model.get("text_cfg", {})
    other = model.get("custom_text") or "multimodal_cfg" in model or text.get("hf_model_name")
    return not other and not text.get("no_causal_mask") and text.get("pool_type", "argmax") == "argmax"


def check_tokenizer(config: Mapping[str, Any], where: str) -> None:
    """Raise UserError, beginning with `where`, if a model configuration needs another tokenizer than CLIP's."""
    text = config.get("text_cfg", {})
    if "hf_tokenizer_name" in text or "tokenizer_kwargs" in text:
        raise UserError(f"{where}: needs another tokenizer than OpenAI CLIP's, the only one that is supported")
