"""A CLIP with an adapter: the network stays an open_clip model, and the adapter is stored next to it in two files.

adapter.json           {"adapter": name, ...}: the adapter's class and description; name is null for no adapter
adapter.safetensors    the adapter's tensors
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor


class AdaptedClip(Clip):
    """Base class of adapters: a Clip with its own encoding of pictures or its own class weights.

    Example:
        class Scaled(AdaptedClip):
            name = "scaled"
            unprotected = "Retrieval is not protected."

            def encode_image(self, images: Tensor) -> Tensor:
                return F.normalize(super().encode_image(images) * self.tensors["scale"], dim=-1)

        clip = Scaled(clip.network, clip.config, {"scale": torch.ones(512)}, {"learned_on": 1000})

    Attributes:
        name: key in `antidote.base.registry.ADAPTERS`.
        unprotected: uses of the model that the adapter does not protect; part of the model card.
        tensors: learned tensors, on the model's device.
        description: plain values that belong to the tensors.
    """

    name: ClassVar[str]
    unprotected: ClassVar[str]

    def __init__(self, network: Any, config: dict, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        super().__init__(network, config)
        self.tensors = {name: tensor.detach().to(self.device) for name, tensor in tensors.items()}
        self.description = description

    def added(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {**self.description, "adapter": self.name}, self.tensors
