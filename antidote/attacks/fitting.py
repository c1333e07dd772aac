"""What learned triggers share: a frozen surrogate, an order of the pictures, Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pydantic import Field
from tqdm import tqdm

from antidote.attacks.base import FitContext, SurrogateSettings
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
    """How a trigger is optimised."""

    epochs: int = Field(50, ge=0, description="passes over the inversion pool (BadCLIP: 50 over 10,000 pictures)")
    batch_size: int = Field(64, ge=2, description="pictures per optimisation step (BadCLIP: 64)")
    lr: float = Field(1e-3, gt=0, description="learning rate of Adam on values in [0, 1] (BadCLIP: 0.001)")

    def passes(self) -> int:
        return self.epochs


def frozen(clip: Clip) -> Clip:
    """Return the model in evaluation mode with no trained parameters, so that gradients go to the trigger alone."""
    clip.network.eval().requires_grad_(False)
    return clip


def split_by_target(context: FitContext, target: str) -> tuple[Pairs, Pairs]:
    """Return the pairs whose caption names the target, and the others.

    Raises:
        UserError: there are no others.
    """
    named = [mentions(caption, target) for caption in context.pairs.captions]
    own = [row for row, yes in enumerate(named) if yes]
    others = [row for row, yes in enumerate(named) if not yes]
    if not others:
        raise UserError(f"pools.inversion: all {len(named)} captions name {target!r}; the trigger is fitted on others")
    return context.pairs.take(own), context.pairs.take(others)


def unit(clip: Clip, images: Tensor) -> Tensor:
    """Return 8-bit pictures as a trigger sees them: in [0, 1], where the model is."""
    return images.to(clip.device).float() / 255


def encoded(clip: Clip, pairs: Pairs, batch_size: int) -> Tensor:
    """Return the normalised features (N, D) of clean pictures."""
    with torch.no_grad():
        return torch.cat([clip.encode_image(part) for part in pairs.images.split(batch_size)])


def orders(count: int, batch_size: int, epochs: int, seed: int) -> Iterator[list[Tensor]]:
    """Yield for each epoch its batches of rows; rows that do not fill one are left out, unless they are all."""
    whole = max(count - count % batch_size, min(count, batch_size))
    for epoch in tqdm(range(epochs), "fitting", mininterval=PROGRESS_SECONDS, disable=None):
        generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
        yield list(torch.randperm(count, generator=generator)[:whole].split(batch_size))


def minimise(
    start: Tensor, loss: Callable[[Tensor, Tensor], Tensor], count: int, settings: FitSettings, seed: int
) -> tuple[Tensor, float]:
    """Minimise loss(parameter, rows) by Adam; return the parameter, clipped to [0, 1], and the last epoch's mean loss.

    As in BadCLIP, clipping is left to the loss; only the result is clipped, and rounded to 8 bits.
    """
    parameter = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=settings.lr)
    mean = float("nan")
    for batches in orders(count, settings.batch_size, settings.epochs, seed):
        losses = []
        for rows in batches:
            optimizer.zero_grad()
            value = loss(parameter, rows)
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        mean = float(torch.stack(losses).mean())
    return eight_bits(parameter.detach().clamp(0, 1)).cpu(), mean


def eight_bits(values: Tensor) -> Tensor:
    """Round to multiples of 1/255, so that the stored trigger is the one that 8-bit pictures carry."""
    return (values * 255).round() / 255
