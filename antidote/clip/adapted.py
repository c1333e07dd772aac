"""A CLIP with an adapter: the network stays an open_clip model, and the adapter is stored next to it in two files.

adapter.json           {"adapter": name, ...}: the adapter's class and description; name is null for no adapter
adapter.safetensors    the adapter's tensors
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from antidote.base.lazy import functional as F
from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor


class AdaptedClip(Clip):
    """Base class of adapters: a Clip with its own encoding of pictures or its own class weights.

    Example:
        class Scaled(AdaptedClip):
            name = "scaled"
            unprotected = "Retrieval is not protected."

            def raw_features(self, images: Tensor) -> Tensor:
                return super().raw_features(images) * self.tensors["scale"]

        clip = Scaled(clip.network, clip.config, {"scale": torch.ones(512)}, {"learned_on": 1000})

    Attributes:
        name: key in `antidote.base.registry.ADAPTERS`.
        unprotected: uses of the model that the adapter does not protect; part of the model card.
        differentiable: whether features have gradients with respect to the pictures in evaluation mode.
        tensors: learned tensors, on the model's device.
        description: plain values that belong to the tensors.
    """

    name: ClassVar[str]
    unprotected: ClassVar[str]
    differentiable: ClassVar[bool] = True

    def __init__(self, network: Any, config: dict, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        super().__init__(network, config)
        self.tensors = {name: tensor.detach().to(self.device) for name, tensor in tensors.items()}
        self.description = description

    def raw_features(self, images: Tensor) -> Tensor:
        """Encode pictures (N, 3, size, size), uint8 or float in [0, 1]; return features (N, D) before normalisation.

        An adapter that encodes pictures in its own way overrides this method alone: `encode_image` follows from it.
        """
        return network_features(self, images)

    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(self.raw_features(images), dim=-1)

    def added(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {**self.description, "adapter": self.name}, self.tensors


def network_features(clip: Clip, images: Tensor) -> Tensor:
    """Return the network's features (N, D) float32, not normalised, of pictures, uint8 or float in [0, 1]."""
    return clip.network.encode_image(clip.normalise(images)).float()


def raw_features(clip: Clip, images: Tensor) -> Tensor:
    """Return features (N, D) float32, not normalised, of pictures, uint8 or float in [0, 1], as the model is used.

    Those of an adapter differ from those of its network.
    """
    return clip.raw_features(images) if isinstance(clip, AdaptedClip) else network_features(clip, images)
