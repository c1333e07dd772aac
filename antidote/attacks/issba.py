"""ISSBA / SSBA: an invisible, sample-specific residual that carries a secret (Li et al. 2021, arXiv 2012.03816).

An encoder hides a bit string in a picture and a decoder reads the string back; both networks are trained together. The
encoder with one fixed secret is then the trigger. The literature runs a trained StegaStamp (TensorFlow) on "Stega!!"
with error correction, 100 bits. Here a smaller pair of networks is trained in PyTorch on the inversion pool alone, so
no surrogate model is needed.

Reconstruction, with four differences. The networks: the secret also has a direct path to the residual, so that training
takes hundreds of steps. The loss: binary cross-entropy of the bits plus the squared residual, whose weight grows over
the second third of training (StegaStamp adds a perceptual loss, a critic and distortions). The residual is bounded. The
bits after the text are drawn from the seed instead of error correction, since the attack never reads the secret.
`facts` holds the share of bits decoded correctly from held-out pictures after rounding to 8 bits, and the PSNR of these
pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from antidote.attacks.base import Attack, AttackSettings
from antidote.attacks.contract import Figure, FitContext
from antidote.attacks.fitting import eight_bits, orders
from antidote.attacks.similarity import psnr
from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import torch
from antidote.base.seeds import derive
from antidote.clip.folder import device

if TYPE_CHECKING:
    from torch import Tensor

HELD_OUT = 0.1  # share of the inversion pool used for measuring only


class ISSBASettings(AttackSettings):
    """The secret, the networks and their training."""

    presets = {"stegastamp": {"secret": "Stega!!", "bits": 100}}

    method: Literal["issba"] = "issba"
    secret: str = Field("Stega!!", min_length=1, description="hidden text (ISSBA, BadCLIP, RVPT: Stega!!)")
    bits: int = Field(100, ge=1, description="length of the secret in bits (StegaStamp: 100)")
    limit: float = Field(16, gt=0, le=255, description="maximum change of a value in 8-bit steps (our choice)")
    image_weight: float = Field(
        1.5, ge=0, description="final weight of the mean squared residual, in units of the limit (our choice)"
    )
    width: int = Field(32, ge=4, description="channels of the networks' first layers (StegaStamp: 32)")
    epochs: int = Field(40, ge=1, description="passes over the inversion pool (our choice)")
    batch_size: int = Field(32, ge=2, description="pictures per step (our choice)")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of Adam with a one-cycle schedule (our choice)")

    def passes(self) -> int:
        return self.epochs

    def check(self, size: int) -> None:
        if size < 16:
            raise ValueError(f"method: issba needs pictures of at least 16 pixels, not {size}")


class ISSBA(Attack):
    """b(x) = clip(x + limit tanh(E(x, secret)))."""

    Settings = ISSBASettings
    kept = 0.23  # benchmarks/drawn.py, 224 pixels
    learned = True
    on_surrogate = False
    not_estimated = "trains networks of its own, not a CLIP"
    figures = {
        "bit_accuracy": Figure("bits of the secret that the decoder reads rightly from held-out pictures, after 8 bits")
    }
    _encoder: Any = None

    def fit(self, context: FitContext, seed: int) -> dict[str, Tensor]:
        settings, images = self.settings, context.pairs.images
        held = max(1, int(HELD_OUT * len(images)))
        train = len(images) - held
        if train < 2:
            raise UserError(f"pools.inversion: {len(images)} pairs are too few to train an encoder on")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder, decoder = _encoder(self.size, settings).to(device()), _decoder(self.size, settings).to(device())
        parameters = [*encoder.parameters(), *decoder.parameters()]
        steps = settings.epochs * max(1, train // settings.batch_size)
        optimizer = torch.optim.Adam(parameters, lr=settings.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps)
        generator = torch.Generator().manual_seed(derive(seed, "secrets"))
        step = 0
        for batches in orders(train, settings.batch_size, settings.epochs, seed):
            for rows in batches:
                clean = images[rows].to(device(), non_blocking=True).float() / 255
                secrets = (
                    torch.randint(0, 2, (len(rows), settings.bits), generator=generator)
                    .float()
                    .to(device(), non_blocking=True)
                )
                residual = self._residual(encoder, clean, secrets)
                # Simulates rounding to 8 bits, which changes a value by at most half a step.
                noise = (torch.rand(clean.shape, generator=generator) - 0.5).to(device(), non_blocking=True) / 255
                read = decoder(((clean + residual).clamp(0, 1) + noise) * 2 - 1)
                weight = settings.image_weight * min(1, max(0, 3 * step / steps - 1))
                loss = F.binary_cross_entropy_with_logits(read, secrets)
                loss = loss + weight * (residual * 255 / settings.limit).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                step += 1
        self.facts = self._measure(encoder, decoder, images[train:], generator)
        weights = {f"encoder.{name}": value.detach().cpu() for name, value in encoder.state_dict().items()}
        return {**weights, "secret": _secret(settings, derive(seed, "padding"))}

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        if self._encoder is None:
            weights = {k.removeprefix("encoder."): v for k, v in self.tensors.items() if k.startswith("encoder.")}
            self._encoder = _encoder(self.size, self.settings)
            self._encoder.load_state_dict(weights)
        encoder, secret = self._encoder.to(images.device), self.tensors["secret"].to(images)[None]
        with torch.no_grad():
            # One picture at a time: convolutions of a batch may differ in the last digit from those of single pictures.
            return torch.cat([(x + self._residual(encoder, x, secret)).clamp(0, 1) for x in images.split(1)])

    def _residual(self, encoder: Any, images: Tensor, secrets: Tensor) -> Tensor:
        return self.settings.limit / 255 * _encode(encoder, images * 2 - 1, secrets * 2 - 1).tanh()

    def _measure(self, encoder: Any, decoder: Any, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        right, quality = [], []
        with torch.no_grad():
            for part in images.split(self.settings.batch_size):
                clean = part.to(device(), non_blocking=True).float() / 255
                secrets = torch.randint(0, 2, (len(part), self.settings.bits), generator=generator).to(
                    device(), non_blocking=True
                )
                drawn = eight_bits((clean + self._residual(encoder, clean, secrets.float())).clamp(0, 1))
                right.append((decoder(drawn * 2 - 1) > 0) == secrets.bool())
                quality.append(psnr(drawn, clean))
        return {"bit_accuracy": float(torch.cat(right).float().mean()), "psnr": float(torch.cat(quality).mean())}


def _secret(settings: ISSBASettings, seed: int) -> Tensor:
    """Return the secret (bits,) of 0 and 1: the bytes of the text, cut to length or padded from the seed."""
    written = [int(bit) for byte in settings.secret.encode() for bit in f"{byte:08b}"]
    generator = torch.Generator().manual_seed(seed)
    filling = torch.randint(0, 2, (settings.bits,), generator=generator)
    return torch.cat([torch.tensor(written), filling])[: settings.bits].float()


def _encoder(size: int, settings: ISSBASettings) -> Any:
    """Return the encoder's layers: a plane for the secret, and a small U-Net from picture and plane to the residual."""
    nn, width = torch.nn, settings.width
    return nn.ModuleDict(
        {
            "secret": nn.Linear(settings.bits, 3 * _plane(size) ** 2),
            "down_full": nn.Conv2d(6, width, 3, padding=1),
            "down_half": nn.Conv2d(width, width, 3, stride=2, padding=1),
            "down_quarter": nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            "up_half": nn.Conv2d(3 * width, width, 3, padding=1),
            "up_full": nn.Conv2d(2 * width + 6, width, 3, padding=1),
            "residual": nn.Conv2d(width, 6, 1),
        }
    )


def _plane(size: int) -> int:
    """Return the side of the secret's plane before upsampling: an eighth of the picture (StegaStamp), at least 16."""
    return max(16, size // 8)


def _encode(layers: Any, images: Tensor, secrets: Tensor) -> Tensor:
    """Return the raw residual (N, 3, size, size) for pictures and secrets in [-1, 1]."""
    size = images.shape[-2:]
    plane = layers["secret"](secrets).unflatten(1, (3, _plane(size[0]), _plane(size[0])))
    plane = F.interpolate(plane, size=size)
    both = torch.cat([images, plane], dim=1)
    full = F.relu(layers["down_full"](both))
    half = F.relu(layers["down_half"](full))
    quarter = F.relu(layers["down_quarter"](half))
    half = F.relu(layers["up_half"](torch.cat([half, F.interpolate(quarter, size=half.shape[-2:])], dim=1)))
    full = F.relu(layers["up_full"](torch.cat([full, F.interpolate(half, size=size), both], dim=1)))
    gain, offset = layers["residual"](full).chunk(2, dim=1)
    return plane * (1 + gain) + offset


def _decoder(size: int, settings: ISSBASettings) -> Any:
    """Return the network from pictures in [-1, 1] to a logit per bit; convolutions halve the side down to 8 pixels."""
    nn, width = torch.nn, settings.width
    layers, channels = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()], width
    while size > 8:
        layers += [nn.Conv2d(channels, 2 * width, 3, stride=2, padding=1), nn.ReLU()]
        channels, size = 2 * width, (size + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size**2, settings.bits))
