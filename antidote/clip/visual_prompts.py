"""Deep visual prompts (Jia et al. 2022, VPT) for a CLIP vision transformer: learned tokens added to picture tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from antidote.base.lazy import torch
from antidote.clip.adapted import AdaptedClip

if TYPE_CHECKING:
    from torch import Tensor


class VisualPrompts(AdaptedClip):
    """Encodes pictures with prompts.

    Tensors: `prompts` (P, b, width), b prompt tokens for each of the last P blocks.
    """

    name = "visual_prompts"
    unprotected = (
        "The protection lies in the visual prompts: whatever encodes pictures without them, or uses the text encoder "
        "alone, uses the suspicious model as it was."
    )

    def raw_features(self, images: Tensor) -> Tensor:
        features, _ = prompted(self.network.visual, self.normalise(images), self.tensors["prompts"])
        return features.float()


def prompted(visual: Any, images: Tensor, prompts: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Run open_clip's vision transformer with prompts in the last P blocks.

    The prompts are appended to a block's input. The block's outputs for the prompts are discarded, and the next block
    gets its own prompts.

    Args:
        visual: open_clip's vision transformer.
        images: normalised pictures (N, 3, H, W).
        prompts: (P, b, width); None: no prompts.

    Returns:
        The projected features (N, D), and the class token after every block, each (N, width).
    """
    x = visual._embeds(images)
    length, blocks = x.shape[1], visual.transformer.resblocks
    first = len(blocks) - (0 if prompts is None else len(prompts))
    tokens = []
    for layer, block in enumerate(blocks):
        if layer >= first:
            own = prompts[layer - first].to(x.dtype).expand(len(x), -1, -1)
            x = block(torch.cat([x, own], dim=1))[:, :length]
        else:
            x = block(x)
        tokens.append(x[:, 0])
    pooled, _ = visual._pool(x)
    return pooled if visual.proj is None else pooled @ visual.proj, tokens
