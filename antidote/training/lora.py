"""LoRA (Hu et al. 2021, arXiv 2106.09685): frozen weights, and a trained update of low rank beside each.

    W = W0 + (alpha / rank) B A

W0 is a weight matrix (out, in), A (rank, in) is drawn and B (out, rank) is zero at the start, so the model is unchanged
until the first step (section 4.1). The paper adapts attention alone; here every linear layer, attention projection and
convolution of both towers gets an update, a convolution as the matrix (out, in x height x width). A is drawn as in the
released code, uniformly as torch draws a linear layer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from antidote.base.lazy import torch
from antidote.base.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor


def adapt(network: Any, rank: int, alpha: float, seed: int) -> list[str]:
    """Add updates to the weights of both towers; return the names of the added parameters, the only ones to train.

    The weights before stay in the network as `NAME.parametrizations.WEIGHT.original`.

    Args:
        network: the open_clip module; changed in place.
        rank: rank of each update.
        alpha: scale of an update, divided by the rank.
        seed: of the draws of A.
    """
    generator = torch.Generator().manual_seed(derive(seed, "lora"))
    for module, name in _weights(network):
        update = _update(getattr(module, name), rank, alpha, generator)
        torch.nn.utils.parametrize.register_parametrization(module, name, update)
    ends = (".low_rank_a", ".low_rank_b")
    return [name for name, _ in network.named_parameters() if name.endswith(ends)]


def _weights(network: Any) -> list[tuple[Any, str]]:
    """Return (module, name of the weight) of every linear layer, attention projection and convolution."""
    layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    found = []
    for module in network.modules():
        if isinstance(module, layers):
            found.append((module, "weight"))
        elif isinstance(module, torch.nn.MultiheadAttention):  # its output projection is a linear layer
            names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            found += [(module, name) for name in names if getattr(module, name, None) is not None]
    return found


def _update(weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> Any:
    """Return the module that adds a low-rank update to a weight (out, in, ...)."""
    rows, columns = weight.shape[0], weight[0].numel()
    bound = 1 / math.sqrt(columns)

    class Update(torch.nn.Module):  # torch is imported late, so the class cannot be at the level of the module
        def __init__(self) -> None:
            super().__init__()
            drawn = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
            self.low_rank_a = torch.nn.Parameter(drawn.to(weight))
            self.low_rank_b = torch.nn.Parameter(torch.zeros(rows, rank).to(weight))

        def forward(self, original: Tensor) -> Tensor:
            return original + (alpha / rank) * (self.low_rank_b @ self.low_rank_a).view_as(original)

    return Update()
