"""The trigger of one attack and seed, as files: what it is and how to draw it. Later stages read nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from antidote.attacks.base import Attack
from antidote.attacks.trigger_files import DESCRIPTION, TENSORS
from antidote.base.errors import UserError
from antidote.base.files import check_readable, read_json, whole_folder, write_json
from antidote.base.lazy import safetensors_torch, torch
from antidote.base.registry import method
from antidote.base.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

CHUNK, CHUNK_PIXELS = 256, 2**19  # pictures and pixels at a time; few enough to stay in the processor's cache


class Trigger:
    """An attack ready to draw on 8-bit pictures.

    Attributes:
        attack: the method with its settings and tensors.
        seed: the seed all per-picture seeds derive from.
    """

    def __init__(self, attack: Attack, seed: int) -> None:
        self.attack, self.seed = attack, seed

    def draw(self, images: Tensor, keys: Sequence[str], use: str) -> Tensor:
        """Return triggered pictures for pictures (N, 3, size, size) uint8, where those are: 8 bits, clipped.

        `use` ("train", "test") and a picture's key make its seed, so that a redrawn trigger never repeats between
        training and test, and a picture gets the same one in every batch and every stage.
        """
        step = pictures_at_a_time(images.shape[-1]) if images.device.type == "cpu" else max(1, len(images))
        done = [self._draw(images[i : i + step], keys[i : i + step], use) for i in range(0, len(keys), step)]
        return torch.cat(done) if done else images

    def poisoned(self, images: Tensor, keys: Sequence[str], laid: Sequence[int | None]) -> Tensor:
        """Return what stands in a poisoned data set for pictures (N, 3, size, size) uint8.

        That is the picture with the trigger, or where `laid` names one of the attack's own pictures, that picture.
        """
        own = [row for row, picture in enumerate(laid) if picture is None]
        result = images.clone()
        if own:
            result[own] = self.draw(images[own], [keys[row] for row in own], "train")
        for row, picture in enumerate(laid):
            if picture is not None:
                result[row] = self.attack.tensors["pictures"][picture]
        return result

    def _draw(self, images: Tensor, keys: Sequence[str], use: str) -> Tensor:
        """Draw on pictures; values are rounded to 8 bits, where the CLIP codes truncate (0.4 levels darker)."""
        seeds = [self.seed_of(key, use) for key in keys]
        with full_precision():
            drawn = self.attack.apply(images.float() / 255, seeds)
        return drawn.mul(255).round().clamp(0, 255).to(torch.uint8)

    def seed_of(self, key: str, use: str) -> int:
        """Return the seed of one picture's trigger."""
        return derive(self.seed, use, key)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep a GPU's convolutions and products of matrices from TF32, which a trigger drawn on the CPU does not have."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def pictures_at_a_time(size: int) -> int:
    """Return how many pictures of `size` x `size` pixels are drawn on together; the result does not depend on it."""
    return max(1, min(CHUNK, CHUNK_PIXELS // size**2))


def save_trigger(folder: Path, trigger: Trigger, name: str) -> None:
    """Write trigger.safetensors and trigger.json."""
    attack = trigger.attack
    description = {
        "attack": name,
        "method": attack.settings.method,
        "threat_model": attack.threat_model,
        "settings": attack.settings.trigger_settings(),
        "target": attack.target,
        "size": attack.size,
        "seed": trigger.seed,
        "facts": attack.facts,
    }
    with whole_folder(folder) as temporary:
        safetensors_torch.save_file({k: v.contiguous() for k, v in attack.tensors.items()}, temporary / TENSORS)
        write_json(temporary / DESCRIPTION, description)


def load_trigger(folder: Path) -> Trigger:
    """Read a trigger folder.

    Raises:
        UserError: a file is missing or damaged.
    """
    description = read_json(folder / DESCRIPTION)
    check_readable(folder / TENSORS)
    try:
        tensors = safetensors_torch.load_file(folder / TENSORS)
    except Exception as error:
        raise UserError(f"{folder / TENSORS}: cannot be read ({error})") from None
    try:
        kind = method("attack", description["method"])
        settings = kind.Settings.read(description["settings"], str(folder / DESCRIPTION))
        attack = kind(settings, description["target"], description["size"], tensors)
        attack.facts = description.get("facts", {})
        return Trigger(attack, description["seed"])
    except (KeyError, TypeError):
        raise UserError(f"{folder / DESCRIPTION}: does not describe a trigger; make the trigger again") from None
