"""Estimate of the GPU memory of a training step, before any job runs: weights, optimiser, activations.

The network runs on tensors without data, once with two and once with three pictures or texts. The difference in the
memory that autograd saves is the cost of each further picture or text. No memory for the data is allocated, so a
machine without a GPU can compute the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from antidote.base.disk import gigabytes
from antidote.base.lazy import open_clip, torch
from antidote.clip.configs import ModelSettings
from antidote.clip.known import model_config
from antidote.clip.model import autocast
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

FLOAT = 4  # bytes
COPIES = 4  # copies of the parameters: weights, gradients, AdamW's two moments
SPARE = 1.2  # factor for buffers within a layer, workspaces of cuDNN and fragmentation (ours)
CONTEXT = 0.6e9  # CUDA's context and kernels, bytes (ours)
FULL_SIZE = 112  # pixels; a model for smaller pictures fits on any GPU


@dataclass(frozen=True)
class Footprint:
    """The memory that a model needs in a training step.

    Attributes:
        parameters: number of parameters.
        picture: bytes kept for the backward pass, per picture.
        text: bytes kept for the backward pass, per text of full length.
        fixed: bytes kept for the backward pass independent of the batch size, such as 16-bit copies of weights.
        input: bytes of a picture as input of the network.
    """

    parameters: int
    picture: int
    text: int
    fixed: int
    input: int

    def step(self, recipe: TrainSettings, views: tuple[float, float, int] = (1, 1, 0)) -> float:
        """Return the bytes of one step of a recipe.

        Args:
            recipe: the training recipe; only batch size and accumulation are used.
            views: pictures and texts that are encoded with gradients per pair; number of further copies of the network.
        """
        pictures, texts, further = views
        share = -(-recipe.batch_size // recipe.accumulate)
        activations = share * (pictures * self.picture + texts * self.text) + self.fixed
        inputs = 2 * recipe.batch_size * pictures * self.input  # in [0, 1], and normalised
        return SPARE * (activations + inputs) + (COPIES + further) * FLOAT * self.parameters + CONTEXT


@cache
def footprint(model: ModelSettings, precision: str = "fp32", checkpointing: bool = False) -> Footprint | None:
    """Return the memory that a model needs at a precision; None for a model that is not a plain CLIP.

    Args:
        checkpointing: the recipe's `grad_checkpointing`.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    config = model_config(model.name)
    if config.keys() & {"custom_text", "multimodal_cfg"}:
        return None
    with FakeTensorMode():
        network = open_clip.CLIP(**config, quick_gelu=model.quick_gelu)
        network.train().set_grad_checkpointing(checkpointing)
        size, length = network.visual.image_size, network.context_length
        height, width = size if isinstance(size, tuple) else (size, size)
        own = {p.untyped_storage()._cdata for p in network.parameters()}

        def kept(encode: Callable[[Any], Tensor], given: Tensor) -> int:
            with autocast("cpu", precision):
                return _saved(lambda: encode(given), own)

        some, more = (kept(network.encode_image, torch.zeros(count, 3, height, width)) for count in (2, 3))
        short, long = (kept(network.encode_text, torch.zeros(n, length, dtype=torch.long)) for n in (2, 3))
        parameters = sum(p.numel() for p in network.parameters())
    fixed = max(3 * some - 2 * more, 0) + max(3 * short - 2 * long, 0)
    return Footprint(parameters, more - some, long - short, fixed, FLOAT * 3 * height * width)


def _saved(compute: Callable[[], Tensor], besides: set[int]) -> int:
    """Return the bytes that autograd keeps for a backward pass, without the storages in `besides`."""
    seen: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in besides:
            seen[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    del result
    return sum(storage.nbytes() for storage in seen.values())


def steps(
    model: ModelSettings, recipes: Mapping[str, tuple[TrainSettings, tuple[float, float, int]]]
) -> dict[str, float]:
    """Return the bytes of a step for each recipe that trains a model, by its key; {} for a model below full size.

    Args:
        model: the trained model.
        recipes: by key, a recipe and the views of a step: pictures and texts per pair, further copies of the network.
            Recipes without an epoch are skipped.
    """
    if model_config(model.name)["vision_cfg"]["image_size"] < FULL_SIZE or footprint(model) is None:
        return {}
    return {
        key: footprint(model, recipe.precision, recipe.grad_checkpointing).step(recipe, views)
        for key, (recipe, views) in recipes.items()
        if recipe.epochs
    }


def too_large(found: dict[str, float], memory: float) -> list[str]:
    """Return a line for each training whose step needs more than `memory` bytes."""
    return [
        f"{key}: a step needs about {gigabytes(needed)} of GPU memory, of {gigabytes(memory)}; less with a higher "
        "`accumulate` or `precision: bf16`"
        for key, needed in found.items()
        if needed > memory
    ]
