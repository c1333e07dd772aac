"""A CLIP model for zero-shot use: encoders, tokenizer, normalisation, class embeddings."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from antidote.base.lazy import functional as F
from antidote.base.lazy import open_clip, torch
from antidote.clip import tokens
from antidote.clip.configs import resnet_tower
from antidote.clip.pooling import pool_with_one_query

if TYPE_CHECKING:
    from torch import Tensor

TEXTS = 1 << 18  # size of the token cache, about 280 MB; CleanCLIP on 100,000 pairs has 200,000 texts
FEW_TOKENS = 100  # ViT-B/32 has 50 and 77


class Clip:
    """A CLIP model with tokenizer, picture size and normalisation.

    Example:
        clip = create_model(ModelSettings(name="ViT-B-32", pretrained="openai", quick_gelu=True), seed=0)
        weights = clip.class_embeddings(["cat", "dog"], ["a photo of a {}."])  # (D, 2)
        scores = clip.encode_image(images) @ weights  # (N, 2)

    Attributes:
        network: the open_clip module, whose parameters are trained.
        config: the content of `open_clip_config.json`.
        size: side of the square input pictures in pixels.
        device: device of the parameters.

    The convolutions of a ResNet keep their weights in the layout `channels_last`, in which torch computes them faster
    on CPUs, and in 16 bits on GPUs. The layout changes results within rounding, and saved files not at all.
    """

    def __init__(self, network: Any, config: dict) -> None:
        self.network = network
        self.config = config
        self.size = int(config["model_cfg"]["vision_cfg"]["image_size"])
        self._tokens: OrderedDict[str, Tensor] = OrderedDict()  # token cache, oldest entry first
        self._table: Tensor | None = None
        if resnet_tower(config["model_cfg"]):
            network.visual.to(memory_format=torch.channels_last)
            pool_with_one_query(network.visual.attnpool)

    @property
    def device(self) -> torch.device:
        return self.network.logit_scale.device

    def frozen(self) -> Clip:
        """Return a copy in evaluation mode with gradients disabled; both models share the token cache."""
        copied = Clip(copy.deepcopy(self.network).eval().requires_grad_(False), self.config)
        copied._tokens, copied._table = self._tokens, self._table
        return copied

    @cached_property
    def tokenizer(self) -> Any:
        """Return the tokenizer, from texts to token ids (N, context_length)."""
        return tokens.tokenizer(self.network.context_length)

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        values = (self.config["preprocess_cfg"][key] for key in ("mean", "std"))
        return tuple(torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in values)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids (N, context_length); results are cached, since open_clip's Python tokenizer is slow."""
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        known = {text: self._tokens[text] for text in texts if text in self._tokens}
        if new:
            ids = self.tokenizer(new)
            known.update(zip(new, ids, strict=True))
            self.remember(new, ids)
        return torch.stack([known[text] for text in texts])

    def remember(self, texts: Sequence[str], tokens: Tensor) -> None:
        """Cache the token ids (N, context_length) of texts; beyond TEXTS entries, the oldest are dropped."""
        self._tokens.update(zip(texts, tokens, strict=True))
        while len(self._tokens) > TEXTS:
            self._tokens.popitem(last=False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode pictures (N, 3, size, size), uint8 or float in [0, 1]; return normalised features (N, D)."""
        return F.normalize(self.network.encode_image(self.normalise(images)).float(), dim=-1)

    @contextmanager
    def autocast(self, precision: str) -> Iterator[None]:
        """Enter an autocast context for `fp32` (autocast off), `bf16` or `fp16`.

        On a CPU, torch's fused attention has a slow backward pass in 16 bits over few tokens: where both towers of a
        vision transformer have few, attention is composed of products and a softmax there. Not under gradient
        checkpointing, which computes again outside the context. Passes without gradients compute in the same way, so
        that a frozen model, or a batch in parts, has the features of the trained model's own pass.
        """
        slow = precision != "fp32" and self.device.type == "cpu"
        with autocast(self.device.type, precision):
            if slow and 0 < _attending(self.network) <= FEW_TOKENS:
                with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                    yield
            else:
                yield

    def normalise(self, images: Tensor) -> Tensor:
        """Return pictures, uint8 or float in [0, 1], normalised by mean and deviation, on the model's device."""
        mean, std = self._normalisation
        images = images.to(self.device, non_blocking=True)
        images = images.float().div(255) if images.dtype == torch.uint8 else images
        return (images - mean) / std

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts; return normalised features (N, D)."""
        return self.encode_tokens(self.tokenize(texts))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Encode token ids (N, context_length) as returned by `tokenize`; return normalised features (N, D).

        open_clip computes every position up to the context length. Under a causal mask, tokens after the end token do
        not affect the pooled feature. The batch is therefore cut after its longest text: the same features for less
        work.

        Raises:
            KeyError: the vocabulary was reduced and a text holds words that the objective did not announce.
        """
        network = self.network
        if self._table is not None:
            tokens = self._table[tokens.cpu()]
            if tokens.min() < 0:
                raise KeyError("a text holds words that the objective did not announce; return it from `texts`")
        if not self.causal:
            return F.normalize(network.encode_text(tokens.to(self.device, non_blocking=True)).float(), dim=-1)
        ends = tokens.argmax(dim=-1)
        length = int(ends.max()) + 1
        tokens = tokens[:, :length].to(self.device, non_blocking=True)
        return self.encode_embedded(network.token_embedding(tokens), ends)

    @property
    def causal(self) -> bool:
        """Return whether the text encoder is CLIP's own: causal mask, pooling at the end token."""
        network = self.network
        own = isinstance(network, open_clip.CLIP) and network.attn_mask is not None
        return own and network.text_pool_type == "argmax"

    @property
    def control(self) -> Clip | None:
        """A classifier that was not attacked, which the evaluation scores beside this one; None for most models."""
        return None

    def added(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return description and tensors of the adapter; None for a plain CLIP."""
        return None

    def encode_embedded(self, words: Tensor, ends: Tensor) -> Tensor:
        """Encode word embeddings; only for causal models.

        Args:
            words: (N, length, width) word embeddings.
            ends: (N,) positions of the end tokens.

        Returns:
            Normalised features (N, D).
        """
        network, length = self.network, words.shape[1]
        kind = network.transformer.get_cast_dtype()
        x = words.to(kind) + network.positional_embedding[:length].to(kind)
        x = network.ln_final(network.transformer(x, attn_mask=network.attn_mask[:length, :length]))
        x = x[torch.arange(len(x), device=x.device), ends.to(x.device, non_blocking=True)]
        projection = network.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection
        return F.normalize(x.float(), dim=-1)

    def class_embeddings(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return zero-shot class weights (D, C): normalised mean over templates of normalised text features."""
        return open_clip.build_zero_shot_classifier(
            _TextEncoder(self), self.tokenize, list(classes), list(templates), device=self.device
        )


def _attending(network: Any) -> int:
    """Return the number of tokens of the longer tower of a vision transformer of open_clip.

    0 for other picture towers, and under gradient checkpointing.
    """
    visual = network.visual
    checkpointed = getattr(getattr(visual, "transformer", None), "grad_checkpointing", True)
    pictures = 0 if checkpointed else len(getattr(visual, "positional_embedding", ()))
    return max(pictures, network.context_length) if pictures else 0


def autocast(device: str, precision: str) -> torch.autocast:
    """Return a context in which a kind of device computes in `fp32`, `bf16` or `fp16` where autocast allows it."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    return torch.autocast(device, dtype=kind, enabled=precision != "fp32")


class _TextEncoder:
    """The interface that open_clip's zero-shot builder needs from a model."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def encode_text(self, tokens: Tensor, normalize: bool = True) -> Tensor:
        return self._clip.encode_tokens(tokens)
