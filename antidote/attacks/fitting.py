"""Helpers of learned triggers: frozen surrogate, order of the pictures, optimisation by Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pydantic import Field
from tqdm import tqdm

from antidote.attacks.base import SurrogateSettings
from antidote.attacks.contract import FitContext
from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.words.names import mentions

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs

PROGRESS_SECONDS = 10


class FitSettings(SurrogateSettings):
    """How the trigger is optimised."""

    epochs: int = Field(50, ge=0, description="passes over the inversion pool (BadCLIP: 50 over 10,000 pictures)")
    batch_size: int = Field(64, ge=2, description="pictures per optimisation step (BadCLIP: 64)")
    lr: float = Field(1e-3, gt=0, description="learning rate of Adam on values in [0, 1] (BadCLIP: 0.001)")

    def passes(self) -> int:
        return self.epochs


def frozen(clip: Clip) -> Clip:
    """Return the model in evaluation mode, without gradients for its parameters; only the trigger gets gradients."""
    clip.network.eval().requires_grad_(False)
    return clip


def split_by_target(context: FitContext, target: str) -> tuple[Pairs, Pairs]:
    """Return the pairs whose caption names the target, and all other pairs.

    Raises:
        UserError: all captions name the target.
    """
    named = [mentions(caption, target) for caption in context.pairs.captions]
    own = [row for row, yes in enumerate(named) if yes]
    others = [row for row, yes in enumerate(named) if not yes]
    if not others:
        raise UserError(f"pools.inversion: all {len(named)} captions name {target!r}; the trigger is fitted on others")
    return context.pairs.take(own), context.pairs.take(others)


def unit(clip: Clip, images: Tensor) -> Tensor:
    """Return 8-bit pictures as floats in [0, 1] on the model's device."""
    return images.to(clip.device, non_blocking=True).float() / 255


def encoded(clip: Clip, pairs: Pairs, batch_size: int) -> Tensor:
    """Return the normalised features (N, D) of the pairs' clean pictures."""
    with torch.no_grad():
        return torch.cat([clip.encode_image(part) for part in pairs.images.split(batch_size)])


def orders(count: int, batch_size: int, epochs: int, seed: int) -> Iterator[list[Tensor]]:
    """Yield the batches of rows of each epoch; an incomplete last batch is dropped unless it is the only batch."""
    whole = max(count - count % batch_size, min(count, batch_size))
    for epoch in tqdm(range(epochs), "fitting", mininterval=PROGRESS_SECONDS, disable=None):
        generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
        yield list(torch.randperm(count, generator=generator)[:whole].split(batch_size))


def minimise(
    start: Tensor, loss: Callable[[Tensor, Tensor], Tensor], count: int, settings: FitSettings, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Minimise loss(parameter, rows) by Adam.

    As in BadCLIP, the loss clips the parameter itself. Only the result is clipped here, and rounded to 8 bits.

    Args:
        start: initial parameter, on the model's device.
        loss: function of the parameter and the rows of a batch.
        count: number of pictures.
        settings: epochs, batch size and learning rate.
        seed: seed of the picture order.

    Returns:
        The parameter in [0, 1], on the CPU, and facts of the fit: `loss`, the mean of the last epoch; without an epoch
        none, as the parameter is the initial one.
    """
    parameter = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=settings.lr)
    facts: dict[str, float] = {}
    for batches in orders(count, settings.batch_size, settings.epochs, seed):
        losses = []
        for rows in batches:
            optimizer.zero_grad()
            value = loss(parameter, rows)
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        facts["loss"] = float(torch.stack(losses).mean())
    return eight_bits(parameter.detach().clamp(0, 1)).cpu(), facts


def eight_bits(values: Tensor) -> Tensor:
    """Round to multiples of 1/255: 8-bit pictures then carry the stored trigger exactly."""
    return (values * 255).round() / 255
