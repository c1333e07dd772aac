"""Perturbation resistance (RVPT, Zhang et al., arXiv 2412.20392): how little a change of a picture moves its feature.

    PR(x) = cos(f(x), f(x + d)),  the mean over pictures

The changes d are the paper's: Gaussian noise, Gaussian blur, colour jitter, a horizontal flip, and the trigger itself.
A backdoored encoder resists its trigger abnormally little, says the paper. f is the encoder as it is evaluated, with
what a defense added to it; in vision transformers also the class token after each block.

Pictures are changed in [0, 1] at the model's resolution, before normalisation, and are not rounded: the noise is finer
than a step of 8 bits. Triggered pictures are those of attack success, in 8 bits; the target's own ones count as well.
Ours, as the paper leaves it open: noise is clipped to [0, 1], and a picture's draws hang on the seed and its key alone,
so that every model sees the same pictures. Features are computed in 32 bits whatever the evaluation's `precision`, as
16 would round the noise away; cosines in 64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.lazy import functional as F
from antidote.base.lazy import open_clip, torch, transforms
from antidote.base.seeds import derive
from antidote.evaluation.settings import EvaluationSettings, Resistance

if TYPE_CHECKING:
    from torch import Tensor

    from antidote.attacks.trigger import Trigger
    from antidote.clip.model import Clip
    from antidote.data.pairs import Pairs


def resistance(
    clip: Clip, pictures: Pairs, trigger: Trigger | None, settings: EvaluationSettings
) -> dict[str, tuple[float, list[float]]]:
    """Return, by perturbation, PR in [-1, 1]: of the picture features, and of the class tokens after blocks 1 to L.

    The perturbations are `noise`, `blur`, `jitter`, `flip`, and `trigger` where there is one to draw. The list is empty
    for models without class tokens (ResNets), and where `settings.resistance.layers` is false.

    Args:
        pictures: those of the evaluation, of which `settings.resistance.pictures` are taken, evenly.

    Raises:
        UserError: features are not finite.
    """
    drawn = trigger if trigger is not None and trigger.attack.triggered else None
    own = settings.resistance
    count = min(own.pictures or len(pictures), len(pictures))
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        clip.network.eval()
        for rows in torch.linspace(0, len(pictures) - 1, count).long().split(settings.batch_size):
            part = pictures.take(rows)
            before = _features(clip, part.images, own.layers)
            for name, images in perturbed(part, drawn, own):
                after = _features(clip, images, own.layers)
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
        raise UserError("model: its features are not finite numbers; its training has diverged")
    return features


@contextmanager
def _watched(visual: Any, layers: bool) -> Iterator[dict[int, Tensor]]:
    """Yield what holds, by block, the class tokens that were last seen: adapters may encode a picture twice."""
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
