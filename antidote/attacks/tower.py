"""The part of a CLIP that a per-picture trigger needs: the picture encoder and the embeddings of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from antidote.base.lazy import open_clip, torch
from antidote.clip.folder import device
from antidote.clip.model import Clip

if TYPE_CHECKING:
    from torch import Tensor

PREFIX, EMBEDDINGS = "tower.", "embeddings"
NO_TEXTS = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class Tower(Clip):
    """Encodes pictures like the original CLIP; the only texts are the class names.

    Attributes:
        classes: C names.
        embeddings: (C, D), zero-shot embeddings of the classes.
    """

    def __init__(self, network: Any, config: dict, classes: Sequence[str], embeddings: Tensor) -> None:
        super().__init__(network, config)
        self.classes, self.embeddings = list(classes), embeddings.to(self.device)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings (N, D) of classes, given by name."""
        return self.embeddings[[self.classes.index(text) for text in texts]]

    def best(self, features: Tensor, without: str) -> str:
        """Return the class with the highest score for a picture's feature (D,), class `without` excluded."""
        scores = self.embeddings @ features
        scores[self.classes.index(without)] = -torch.inf
        return self.classes[int(scores.argmax())]


def tensors_of(clip: Clip, classes: Sequence[str], templates: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors for `tower`, on the CPU; the model configuration and the class names are not included."""
    state = {f"{PREFIX}{name}": value.detach().cpu() for name, value in clip.network.visual.state_dict().items()}
    with torch.no_grad():
        return {**state, EMBEDDINGS: clip.class_embeddings(classes, templates).T.contiguous().cpu()}


def tower(tensors: dict[str, Tensor], config: dict, classes: Sequence[str]) -> Tower:
    """Build a frozen tower from a model configuration (`open_clip_config.json`) and the tensors of `tensors_of`."""
    model = config["model_cfg"]
    with torch.device("meta"):  # weights are loaded below, so none are initialised
        network = open_clip.CLIP(
            model["embed_dim"], dict(model["vision_cfg"]), NO_TEXTS, quick_gelu=model.get("quick_gelu", False)
        )
    state = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    visual = network.visual
    visual.load_state_dict(state, assign=True)
    visual.to(device()).eval().requires_grad_(False)
    return Tower(_Pictures(visual), config, classes, tensors[EMBEDDINGS])


class _Pictures:
    """The interface that `Clip` needs from a network, reduced to the picture encoder."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.logit_scale = next(visual.parameters())  # `Clip` reads the device from `logit_scale`

    def encode_image(self, images: Tensor) -> Tensor:
        return self.visual(images)
