"""Settings of a CLIP model, and what a model's configuration allows. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from antidote.base.errors import UserError
from antidote.base.settings import Settings

NEEDS_CAUSAL_TEXT = "need CLIP's own text encoder, which reads them as word embeddings"


def needs_vision_transformer(model: Mapping[str, Any]) -> str | None:
    """Return why a method for plain vision transformers cannot work on a model; None where it can."""
    vision = model["vision_cfg"]
    if vision.get("timm_model_name") or not isinstance(vision.get("layers", 12), int):
        return "needs a vision transformer with a class token"
    if vision.get("attentional_pool") or vision.get("pool_type", "tok") != "tok":
        return "needs a vision transformer that pools by its class token"
    return None


class ModelSettings(Settings):
    """Which CLIP the study is about."""

    name: str = Field("tiny-rn", description="open_clip model name, or a file in data/models")
    pretrained: str | None = Field(
        None,
        description="weights to start from: a tag of open_clip, the path of a checkpoint file (safetensors, torch's, "
        "OpenAI's), or of an open_clip model folder; empty: random weights",
    )
    quick_gelu: bool = Field(False, description="QuickGELU activations, which OpenAI's weights need")


def causal_text(model: Mapping[str, Any]) -> bool:
    """Tell of a model configuration of open_clip what `Clip.causal` tells of the model."""
    text = model.get("text_cfg", {})
    other = model.get("custom_text") or "multimodal_cfg" in model or text.get("hf_model_name")
    return not other and not text.get("no_causal_mask") and text.get("pool_type", "argmax") == "argmax"


def check_tokenizer(config: Mapping[str, Any], where: str) -> None:
    """Raise UserError, which begins with `where`, where a model configuration needs another tokenizer than CLIP's."""
    text = config.get("text_cfg", {})
    if "hf_tokenizer_name" in text or "tokenizer_kwargs" in text:
        raise UserError(f"{where}: needs another tokenizer than OpenAI CLIP's, the only one that is supported")
