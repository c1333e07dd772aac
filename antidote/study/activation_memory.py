"""Estimate of the GPU memory of a step or a pass, before any job runs: weights, optimiser, activations.

The network runs on tensors without data, once with two and once with three pictures or texts. The difference in the
memory that autograd saves is the cost of each further picture or text; without gradients, the difference in the largest
sum of all results that exist at once. No memory for the data is allocated, so a machine without a GPU can compute the
estimate.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from antidote.base.disk import gigabytes
from antidote.base.lazy import open_clip, torch
from antidote.clip.configs import ModelSettings
from antidote.clip.known import model_config
from antidote.clip.model import autocast
from antidote.defenses.base import Held
from antidote.training.recipe import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

FLOAT, HALF = 4, 2  # bytes
Trained = Literal["weights", "inputs", "nothing"]
COPIES = 4  # copies of the parameters: weights, gradients, AdamW's two moments
SPARE = 1.2  # factor for buffers within a layer, workspaces of cuDNN and fragmentation (ours)
CONTEXT = 0.6e9  # CUDA's context and kernels, bytes (ours)
CUSTOM = {"custom_text", "multimodal_cfg"}  # keys of open_clip's configurations that are no plain CLIP
FULL_SIZE = 112  # pixels; a model for smaller pictures fits on any GPU


@dataclass(frozen=True)
class Footprint:
    """The memory that a model needs in a training step, or in one pass.

    Attributes:
        parameters: number of parameters.
        picture: bytes kept for the backward pass, per picture; without gradients, bytes that exist at once.
        text: the same per text of full length.
        fixed: such bytes independent of the batch size, such as 16-bit copies of weights.
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

    def held(self, held: Held) -> float:
        """Return the bytes of one pass of a network whose weights are not trained."""
        activations = held.pictures * self.picture + held.texts * self.text + self.fixed
        inputs = 2 * held.pictures * self.input
        weights = FLOAT + (HALF if held.precision != "fp32" and not held.gradients else 0)  # else in `fixed`
        return SPARE * (activations + inputs) + weights * self.parameters + CONTEXT


@cache
def footprint(
    model: ModelSettings, precision: str = "fp32", checkpointing: bool = False, trained: Trained = "weights"
) -> Footprint | None:
    """Return the memory that a model needs at a precision; None for a model that is not a plain CLIP.

    Args:
        checkpointing: the recipe's `grad_checkpointing`.
        trained: what has gradients: the weights, only the inputs (pictures and word embeddings), or nothing.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    config = model_config(model.name)
    if config.keys() & CUSTOM:
        return None
    with FakeTensorMode():
        network = open_clip.CLIP(**config, quick_gelu=model.quick_gelu)
        network.train().requires_grad_(trained == "weights").set_grad_checkpointing(checkpointing)
        network.token_embedding.weight.requires_grad_(trained != "nothing")
        size, length = network.visual.image_size, network.context_length
        height, width = size if isinstance(size, tuple) else (size, size)
        own = {p.untyped_storage()._cdata for p in network.parameters()}

        def kept(encode: Callable[[Any], Tensor], given: Tensor) -> int:
            with autocast("cpu", precision):
                return (_live if trained == "nothing" else _saved)(lambda: encode(given), own)

        def pictures(count: int) -> Tensor:
            return torch.zeros(count, 3, height, width, requires_grad=trained == "inputs")

        some, more = (kept(network.encode_image, pictures(count)) for count in (2, 3))
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


def _live(compute: Callable[[], Tensor], besides: set[int]) -> int:
    """Return the most bytes of results that exist at once without gradients, those in `besides` left out."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    alive: dict[int, int] = {}
    most = 0

    class Followed(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            nonlocal most
            result = function(*given, **(named or {}))
            for tensor in tree_leaves(result):
                if not torch.is_tensor(tensor):
                    continue
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in besides and key not in alive:
                    alive[key] = storage.nbytes()
                    weakref.finalize(storage, alive.pop, key)
            most = max(most, sum(alive.values()))
            return result

    with torch.no_grad(), Followed():
        compute()
    return most


def steps(
    model: ModelSettings, recipes: Mapping[str, tuple[TrainSettings, tuple[float, float, int]]]
) -> dict[str, float]:
    """Return the bytes of a step for each recipe that trains a model, by its key; {} for a model below full size.

    Args:
        model: the trained model.
        recipes: by key, a recipe and the views of a step: pictures and texts per pair, further copies of the network.
            Recipes without an epoch are skipped.
    """
    if not full_size(model):
        return {}
    return {
        key: footprint(model, recipe.precision, recipe.grad_checkpointing).step(recipe, views)
        for key, (recipe, views) in recipes.items()
        if recipe.epochs
    }


def passes(model: ModelSettings, held: Mapping[str, Sequence[Held]]) -> dict[str, float]:
    """Return the bytes of the largest pass for each job, by its key; {} for a model below full size.

    Args:
        model: the network that encodes.
        held: by key, the passes of a job; a job without one is left out.
    """
    if not full_size(model):
        return {}

    def needed(one: Held) -> float:
        return footprint(model, one.precision, trained="inputs" if one.gradients else "nothing").held(one)

    return {key: max(map(needed, some)) for key, some in held.items() if some}


def full_size(model: ModelSettings) -> bool:
    """Return whether a model is a plain CLIP for pictures of full size, for which estimates are made."""
    config = model_config(model.name)
    return config["vision_cfg"]["image_size"] >= FULL_SIZE and not config.keys() & CUSTOM


TRAINING = "a higher `accumulate` or `precision: bf16`"
ENCODING = "fewer pictures or texts at a time"


def too_large(found: dict[str, float], memory: float, advice: str = TRAINING) -> list[str]:
    """Return a line for each job whose step or pass needs more than `memory` bytes."""
    return [
        f"{key}: a step needs about {gigabytes(needed)} of GPU memory, of {gigabytes(memory)}; less with {advice}"
        for key, needed in found.items()
        if needed > memory
    ]
