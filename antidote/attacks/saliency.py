"""Saliency maps of a CLIP: attention rollout (ViT; Abnar and Zuidema 2020), Grad-CAM (ResNet; Selvaraju 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

NEITHER = "is neither open_clip's ResNet nor its ViT; where it looks is not known"
CELLS = 7  # Grad-CAM uses the deepest ResNet stage with at least 7 cells per side: the last stage at 224 pixels


def unseen(model: Mapping[str, Any]) -> str | None:
    """Return why `saliency` does not support an open_clip model configuration; None for a supported model."""
    name = model["vision_cfg"].get("timm_model_name")
    return f"{name} {NEITHER}" if name else None


def saliency(clip: Clip, images: Tensor, captions: Sequence[str]) -> Tensor:
    """Compute saliency maps. Grad-CAM maps depend on the caption, rollout maps do not.

    Args:
        clip: the model.
        images: (N, 3, size, size) in [0, 1].
        captions: N captions.

    Returns:
        Maps (N, size, size) in [0, 1].

    Raises:
        UserError: the picture encoder is neither open_clip's ResNet nor its ViT.
    """
    visual = clip.network.visual
    if hasattr(visual, "layer4"):
        maps = _grad_cam(clip, images, captions)
    elif hasattr(visual, "transformer") and hasattr(visual, "conv1"):
        maps = _rollout(clip, images)
    else:
        raise UserError(f"surrogate: {type(visual).__name__} {NEITHER}")
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    size = images.shape[-2:]
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _grad_cam(clip: Clip, images: Tensor, captions: Sequence[str]) -> Tensor:
    visual, outputs = clip.network.visual, []
    stages = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    hooks = [stage.register_forward_hook(lambda _, __, output: outputs.append(output)) for stage in stages]
    try:
        features = clip.encode_image(images.clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        texts = clip.encode_text(captions)
    fine = [output for output in outputs if output.shape[-1] >= CELLS]
    activation = fine[-1] if fine else outputs[0]
    gradient = torch.autograd.grad((features * texts).sum(), activation)[0]
    return F.relu((gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(dim=1)).detach()


def _rollout(clip: Clip, images: Tensor) -> Tensor:
    weights = []

    def record(block):
        def hook(_, __, normed):
            weights.append(block.attn(normed, normed, normed, need_weights=True)[1])

        return hook

    blocks = clip.network.visual.transformer.resblocks
    hooks = [block.ln_1.register_forward_hook(record(block)) for block in blocks]
    try:
        with torch.no_grad():
            clip.encode_image(images)
    finally:
        for hook in hooks:
            hook.remove()
    identity = torch.eye(weights[0].shape[-1], device=images.device)
    rolled = identity
    for attention in weights:
        rolled = (attention + identity) / 2 @ rolled
    patches = rolled[:, 0, 1:]
    side = round(patches.shape[-1] ** 0.5)
    return patches.unflatten(1, (side, side)).float()
