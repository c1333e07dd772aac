"""A CLIP with something added to it: the network stays an open_clip model, the addition lies beside it as two files.

adapter.json           {"adapter": name, ...}: which class, and what it says of itself; name is null for nothing added
adapter.safetensors    its tensors
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor


class AdaptedClip(Clip):
    """The base class: a Clip that encodes pictures, or weighs classes, in a way of its own.

    Attributes:
        name: in `antidote.base.registry.ADAPTERS`.
        unprotected: uses of the model that the addition does nothing for; goes into the card.
        tensors: what was learned.
        description: plain values that belong to them.
    """

    name: ClassVar[str]
    unprotected: ClassVar[str]

    def __init__(self, network: Any, config: dict, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        super().__init__(network, config)
        self.tensors = {name: tensor.detach().to(self.device) for name, tensor in tensors.items()}
        self.description = description

    def added(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {**self.description, "adapter": self.name}, self.tensors
