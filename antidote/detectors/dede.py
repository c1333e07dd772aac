"""DeDe: a picture that cannot be rebuilt from its feature (Hou et al., CVPR 2025, arXiv 2411.16154).

A decoder g learns on clean pairs to rebuild pictures from the suspicious model's feature and few visible patches,

    L = mean over hidden patches of |x - g(visible patches of x, f(x))|^2

A trigger moves the feature to the target's, so that the decoder draws another object, and the error is large.

    score(x) = mean of the same error over masks that hide more,   flagged from 1.5 times the mean of clean pictures

Facts are from the paper's code as kept in jsrdcht/SSL-Backdoor (MIT): a masked autoencoder whose class token is
replaced by a linear map of the feature; AdamW in the code, Adam here. Ours: a smaller decoder, since pictures are
small; the same masks for every picture, several of them, so that errors compare; normalised features.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.data.access import DefenseData
from antidote.detectors.base import Detector, DetectorSettings, Scores
from antidote.detectors.features import picture_features
from antidote.detectors.zero_shot import of_chunks
from antidote.training.session import Work
from antidote.training.tuning import Task, TuneSettings, tune

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.clip.model import Clip

FEWEST = 2  # pairs; a step takes at least two


class DeDeSettings(DetectorSettings):
    """The decoder, its training, and the masks."""

    method: Literal["dede"] = "dede"
    patches_per_side: int = Field(8, ge=2, description="of a picture (released code: 16)")
    width: int = Field(96, ge=8, description="numbers per patch inside the decoder (released code: 192)")
    heads: int = Field(3, ge=1, description="attention heads (released code: 3)")
    layers: int = Field(3, ge=1, description="transformer layers (released code: 6 to encode, 4 to decode)")
    masked: float = Field(0.75, ge=0, lt=1, description="share of hidden patches in training (released code: 0.75)")
    shown_masked: float = Field(
        0.9, ge=0, lt=1, description="share of hidden patches of scored pictures (paper: 0.9 to 0.99)"
    )
    masks: int = Field(4, ge=1, description="masks per scored picture, the same for all pictures (ours; paper: 1)")
    epochs: int = Field(30, ge=1, description="passes over the clean pairs (ours; released code: 200)")
    batch_size: int = Field(64, ge=2, description="pairs per step (ours)")
    lr: float = Field(1e-3, gt=0, description="first rate of Adam, with a cosine schedule (ours)")
    margin: float = Field(1.5, gt=0, description="threshold in mean errors of the clean pairs (released code: 1.5)")

    @model_validator(mode="after")
    def _heads_divide(self) -> DeDeSettings:
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} is not a multiple of heads, {self.heads}")
        return self

    def check(self, model: Mapping[str, Any]) -> None:
        if reason := self.uneven(int(model["vision_cfg"]["image_size"])):
            raise ValueError(reason)

    def uneven(self, size: int) -> str | None:
        """Return why patches do not fill a picture of `size` x `size` pixels; None if they do."""
        if size % self.patches_per_side == 0:
            return None
        return f"patches_per_side: {self.patches_per_side} should divide the {size} pixels of a picture"


class DeDe(Detector):
    """Error of a picture that is rebuilt from its feature."""

    Settings = DeDeSettings
    subject = "pictures"
    not_estimated = "trains a decoder of its own, not a CLIP"
    access = "clean-pairs"
    reconstruction = True

    @classmethod
    def work(cls, settings: DeDeSettings, sizes: Mapping[str, int]) -> tuple[float, float]:
        return settings.epochs * sizes["defense"], sizes["defense"] + sizes["shown pictures"]

    def score(self, clip: Clip, data: DefenseData, work: Work) -> Scores:
        settings, pairs, grid = self.settings, data.pairs, self.settings.patches_per_side
        if reason := settings.uneven(clip.size):
            raise UserError(f"dede: {reason}")
        if len(pairs) < FEWEST:
            raise UserError(f"dede: {len(pairs)} clean pair is given; at least {FEWEST} are needed to learn from")
        features = picture_features(clip, pairs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "decoder") % 2**63)
            decoder = decoder_of(settings, clip.size, features.shape[1]).to(clip.device)
        side = clip.size // grid

        def loss(rows: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
            images = pairs.images[rows].to(clip.device, non_blocking=True).float() / 255
            stream = torch.Generator().manual_seed(rng.getrandbits(63))
            hidden = torch.stack([_hidden(grid, settings.masked, stream) for _ in rows]).to(
                clip.device, non_blocking=True
            )
            error = _errors(
                decoder, patches(images, side), features[rows].to(clip.device, non_blocking=True), hidden
            ).mean()
            return error, {"error": error}

        recipe = TuneSettings(
            optimizer="adam", lr=settings.lr, epochs=settings.epochs, batch_size=min(settings.batch_size, len(pairs))
        )
        tune(Task(dict(decoder.named_parameters()), loss, len(pairs), {}), recipe, self.seed, work)
        decoder.eval()
        stream = torch.Generator().manual_seed(derive(self.seed, "masks"))
        masks = [_hidden(grid, settings.shown_masked, stream).to(clip.device) for _ in range(settings.masks)]

        def rebuilt(images: Tensor) -> Tensor:
            given, cut = clip.encode_image(images).float(), patches(images, side)
            return torch.stack([_errors(decoder, cut, given, mask.expand(len(images), -1)) for mask in masks]).mean(0)

        clean = of_chunks(clip, pairs, rebuilt)
        values = of_chunks(clip, data.pictures, rebuilt)
        evidence = {"mean error of clean pairs": float(clean.mean())}
        return Scores(data.pictures.keys, values, settings.margin * float(clean.mean()), evidence)


def decoder_of(settings: DeDeSettings, size: int, features: int) -> Any:
    """Return a fresh decoder: patches (N, P, 3 side^2), features (N, D), hidden (N, P) bool -> patches."""
    count, values = settings.patches_per_side**2, 3 * (size // settings.patches_per_side) ** 2

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Linear(values, settings.width)
            self.feature = torch.nn.Linear(features, settings.width, bias=False)
            self.absent = torch.nn.Parameter(torch.zeros(settings.width))
            self.places = torch.nn.Parameter(0.02 * torch.randn(count + 1, settings.width))
            layer = torch.nn.TransformerEncoderLayer(
                settings.width, settings.heads, 4 * settings.width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.layers = torch.nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
            self.draw = torch.nn.Linear(settings.width, values)

        def forward(self, cut: Tensor, given: Tensor, hidden: Tensor) -> Tensor:
            tokens = torch.where(hidden[..., None], self.absent, self.embed(cut))
            given = self.feature(given * math.sqrt(features))  # numbers of about 1
            return self.draw(self.layers(torch.cat([given[:, None], tokens], dim=1) + self.places)[:, 1:])

    return Decoder()


def patches(images: Tensor, side: int) -> Tensor:
    """Return the patches (N, P, 3 side^2) of pictures (N, 3, H, W), row by row."""
    return torch.nn.functional.unfold(images, side, stride=side).transpose(1, 2)


def _hidden(grid: int, share: float, stream: torch.Generator) -> Tensor:
    """Return which patches (P,) are hidden: at least one, and at least one is not."""
    count = grid**2
    hidden = torch.zeros(count, dtype=torch.bool)
    hidden[torch.randperm(count, generator=stream)[: min(count - 1, max(1, round(share * count)))]] = True
    return hidden


def _errors(decoder: Any, cut: Tensor, given: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean squared error (N,) over the hidden patches."""
    wrong = (decoder(cut, given, hidden) - cut).square().mean(dim=2)
    return (wrong * hidden).sum(dim=1) / hidden.sum(dim=1)
