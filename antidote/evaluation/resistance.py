"""Perturbation resistance (RVPT, Zhang et al., arXiv 2412.20392): how little a change of a picture moves its feature.

    PR(x) = cos(f(x), f(x + d)),  the mean over pictures

The changes d are the paper's: Gaussian noise, Gaussian blur, colour jitter, a horizontal flip, and the trigger itself.
By the paper a backdoored encoder has abnormally little resistance to its trigger. f is the encoder as evaluated, with
the additions of a defense; in vision transformers also the class token after each block.

Pictures are changed in [0, 1] at the model's resolution, before normalisation, and are not rounded: the noise is finer
than a step of 8 bits. Triggered pictures are those of attack success, in 8 bits; the target's own pictures count as
well. Ours, where the paper is silent: noise is clipped to [0, 1], and the draws of a picture depend on the seed and its
key alone, so that every model sees the same pictures. Features are computed in 32 bits whatever the evaluation's
`precision`, as 16 bits would round the noise away; cosines in 64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import open_clip, torch, transforms
from antidote.base.seeds import derive
from antidote.base.settings import Seed
from antidote.clip.model import Clip
from antidote.data.pairs import Pairs
from antidote.evaluation.base import Columns, Inputs, Measure, ZeroShotSettings
from antidote.evaluation.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

PERTURBATIONS = ("trigger", "noise", "blur", "jitter", "flip")


class Resistance(Measure):
    """Perturbations of the evaluation's pictures, under which every cell's features are compared with those before."""

    pictures: int | None = Field(
        500, ge=1, description="how many of the evaluation's, evenly over them (ours, for time); empty: all"
    )
    layers: bool = Field(
        True, description="class tokens after every block as well, of vision transformers, in `scores.json` (RVPT)"
    )
    noise: float = Field(0.001, ge=0, description="deviation of Gaussian noise, for pictures in [0, 1] (RVPT)")
    blur_kernel: int = Field(3, ge=1, description="side of the Gaussian blur's kernel, pixels, odd (RVPT)")
    blur_sigma: float = Field(5.0, gt=0, description="deviation of the Gaussian blur, pixels (RVPT)")
    brightness: float = Field(
        0.5, ge=0, description="of colour jitter: b draws factors from 1 - b, at least 0, to 1 + b (RVPT)"
    )
    hue: float = Field(0.3, ge=0, le=0.5, description="of colour jitter: h draws turns from -h to h (RVPT)")
    seed: Seed = Field(0, description="of noise and jitter, for all cells the same (ours)")

    columns: ClassVar = tuple(f"resistance_{name}" for name in PERTURBATIONS)
    floors: ClassVar = {"resistance_trigger": "floor_resistance"}

    @field_validator("blur_kernel")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"should be odd, not {side}")
        return side

    def check(self, evaluation: ZeroShotSettings, size: int, classes: str | None) -> None:
        most = 2 * size - 1  # the blur mirrors pictures at their edges
        if self.blur_kernel > most:
            raise ValueError(
                f"blur_kernel: {self.blur_kernel} is too large for pictures of {size} pixels, which allow {most}"
            )

    def measure(self, subject: Subject, inputs: Inputs) -> Columns:
        """Return `resistance_NAME` of picture features, and the layers by perturbation under `resistance_layers`."""
        found = resistance(subject, inputs.pictures, self, inputs.settings.batch_size)
        layers = {name: parts for name, (_, parts) in found.items() if parts}
        columns = {f"resistance_{name}": whole for name, (whole, _) in found.items()}
        return {**columns, **({"resistance_layers": layers} if layers else {})}


def resistance(
    subject: Subject, pictures: Pairs, settings: Resistance, batch_size: int
) -> dict[str, tuple[float, list[float]]]:
    """Return, by perturbation, PR in [-1, 1]: of the picture features, and of the class tokens after blocks 1 to L.

    The perturbations are `noise`, `blur`, `jitter`, `flip`, and `trigger` where there is one to draw. The list is empty
    for models without class tokens (ResNets), and where `settings.layers` is false.

    Args:
        pictures: those of the evaluation, of which `settings.pictures` are taken, evenly.
        batch_size: pictures encoded at a time.

    Raises:
        UserError: features are not finite.
    """
    clip = subject.clip
    count = min(settings.pictures or len(pictures), len(pictures))
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        clip.network.eval()
        for rows in torch.linspace(0, len(pictures) - 1, count).long().split(batch_size):
            part = pictures.take(rows)
            before = _features(clip, part.images, settings.layers)
            for name, images in perturbed(part, subject.drawn, settings):
                after = _features(clip, images, settings.layers)
                both = zip(before, after, strict=True)
                cosines = [F.cosine_similarity(a.double(), b.double(), dim=-1).cpu() for a, b in both]
                found.setdefault(name, []).append(torch.stack(cosines))
    means = {name: torch.cat(parts, dim=1).mean(dim=1).tolist() for name, parts in found.items()}
    return {name: (whole, layers) for name, (whole, *layers) in means.items()}


def perturbed(pictures: Pairs, drawn: Trigger | None, settings: Resistance) -> Iterator[tuple[str, Tensor]]:
    """Yield each perturbation's name with the perturbed pictures (N, 3, size, size): uint8 or float in [0, 1]."""
    if drawn is not None:
        yield "trigger", drawn.draw(pictures.images, pictures.keys, "test")
    images = pictures.images.float() / 255
    for name, change in perturbations(settings).items():
        yield name, torch.stack([_changed(change, image, derive(settings.seed, name, key))
                                 for image, key in zip(images, pictures.keys, strict=True)])  # fmt: skip


def perturbations(settings: Resistance) -> dict[str, Any]:
    """Return torchvision's transforms of one picture in [0, 1], by name."""
    return {
        "noise": transforms.GaussianNoise(sigma=settings.noise),
        "blur": transforms.GaussianBlur(settings.blur_kernel, settings.blur_sigma),
        "jitter": transforms.ColorJitter(brightness=settings.brightness, hue=settings.hue),
        "flip": transforms.RandomHorizontalFlip(p=1.0),
    }


def _changed(change: Any, image: Tensor, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        return change(image)


def _features(clip: Clip, images: Tensor, layers: bool) -> list[Tensor]:
    """Return the picture features (N, D), and if asked for the class tokens after every block, each (N, width)."""
    with _watched(clip.network.visual, layers) as tokens:
        features = [clip.encode_image(images), *tokens.values()]
    if not all(part.isfinite().all() for part in features):
        raise UserError(
            "model: its features are not finite numbers; its weights are damaged, or its training has diverged"
        )
    return features


@contextmanager
def _watched(visual: Any, layers: bool) -> Iterator[dict[int, Tensor]]:
    """Yield the class tokens of the last pass by block, filled during the pass: adapters may encode a picture twice."""
    tokens: dict[int, Tensor] = {}
    blocks = []
    if layers and isinstance(visual, open_clip.transformer.VisionTransformer):
        blocks = visual.transformer.resblocks

    def keep(layer: int) -> Any:
        return lambda block, inputs, output: tokens.__setitem__(layer, output[:, 0].detach())

    hooks = [block.register_forward_hook(keep(layer)) for layer, block in enumerate(blocks)]
    try:
        yield tokens
    finally:
        for hook in hooks:
            hook.remove()
