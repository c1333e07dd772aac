"""The trigger of one attack and one seed, and its files. Later stages read no other description of the trigger."""

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

CHUNK, CHUNK_PIXELS = 256, 2**19  # pictures and pixels per step; a step fits into the CPU's cache


class Trigger:
    """An attack with its tensors, ready to draw on 8-bit pictures.

    Example:
        trigger = load_trigger(Path("results/default/badnet/seed0/trigger"))
        triggered = trigger.draw(images, keys, "test")

    Attributes:
        attack: the attack with its settings and tensors.
        seed: the seed that all per-picture seeds derive from.
    """

    def __init__(self, attack: Attack, seed: int) -> None:
        self.attack, self.seed = attack, seed

    def draw(self, images: Tensor, keys: Sequence[str], use: str) -> Tensor:
        """Draw the trigger on pictures; the result is rounded and clipped to 8 bits and stays on the same device.

        The seed of a picture derives from `use` and the picture's key. A re-drawn trigger therefore differs between
        training and test, and a picture gets the same trigger in every batch and every stage.

        Args:
            images: (N, 3, size, size) uint8.
            keys: N keys of the pictures.
            use: `train` or `test`.

        Returns:
            Triggered pictures (N, 3, size, size) uint8.
        """
        step = pictures_at_a_time(images.shape[-1]) if images.device.type == "cpu" else max(1, len(images))
        drawn = [self._draw(images[i : i + step], keys[i : i + step], use) for i in range(0, len(keys), step)]
        return torch.cat(drawn) if drawn else images

    def poisoned(self, images: Tensor, keys: Sequence[str], laid: Sequence[int | None]) -> Tensor:
        """Return the poisoned version of each picture.

        Args:
            images: (N, 3, size, size) uint8.
            keys: N keys of the pictures.
            laid: per picture the index of the attack's replacement picture; None: the picture with the trigger.
        """
        with_trigger = [row for row, picture in enumerate(laid) if picture is None]
        result = images.clone()
        if with_trigger:
            result[with_trigger] = self.draw(images[with_trigger], [keys[row] for row in with_trigger], "train")
        for row, picture in enumerate(laid):
            if picture is not None:
                result[row] = self.attack.tensors["pictures"][picture]
        return result

    def _draw(self, images: Tensor, keys: Sequence[str], use: str) -> Tensor:
        """Draw on pictures; round to 8 bits. The CLIP codes truncate, which is 0.4 levels darker."""
        seeds = [self.seed_of(key, use) for key in keys]
        with full_precision():
            drawn = self.attack.apply(images.float() / 255, seeds)
        return drawn.mul(255).round().clamp(0, 255).to(torch.uint8)

    def seed_of(self, key: str, use: str) -> int:
        """Return the seed of one picture's trigger."""
        return derive(self.seed, use, key)


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable TF32 for convolutions and matrix products on a GPU: triggers drawn on the CPU do not use TF32."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def pictures_at_a_time(size: int) -> int:
    """Return how many pictures of `size` x `size` pixels one step draws on; results do not depend on this number."""
    return max(1, min(CHUNK, CHUNK_PIXELS // size**2))


def save_trigger(folder: Path, trigger: Trigger, name: str) -> None:
    """Write trigger.safetensors and trigger.json; `name` is the attack's entry in the study."""
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
        UserError: a file is missing or damaged, or the tensors do not fit the method, as in a trigger made by hand.
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
        size, seed = attack.size, description["seed"]
    except (KeyError, TypeError):
        raise UserError(f"{folder / DESCRIPTION}: does not describe a trigger; make the trigger again") from None
    if type(attack.target) is not str or type(size) is not int or size < 1:
        raise UserError(f"{folder / DESCRIPTION}: should hold a target as text and a size in pixels")
    probe = kind(settings, attack.target, size, tensors)
    probe.facts = attack.facts
    fault = _misfit(probe)
    if fault:
        wanted = f"a trigger of {settings.method} for pictures of {size} x {size} pixels"
        raise UserError(f"{folder / TENSORS}: {fault}; should hold {wanted}")
    return Trigger(attack, seed)


def _misfit(attack: Attack) -> str:
    """Return why an attack cannot draw with its tensors, or lay its pictures; empty if it can.

    The attack is not used afterwards: what it keeps stays on the CPU.
    """
    for name, tensor in attack.tensors.items():
        if not tensor.isfinite().all():
            return f"{name!r} has values that are not finite"
    pictures, shape = attack.tensors.get("pictures"), (3, attack.size, attack.size)
    if pictures is not None and (pictures.dtype != torch.uint8 or pictures.shape[1:] != shape):
        return f"'pictures' is {pictures.dtype} of shape {tuple(pictures.shape)}, not uint8 (N, 3, size, size)"
    if not attack.triggered:
        return ""
    blank = torch.zeros(1, *shape)
    try:
        drawn = attack.apply(blank, [0])
    except KeyError as error:
        return f"{error} is missing"
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        first, *_ = str(error).split("\n")
        return f"does not fit ({first or type(error).__name__})"
    return "" if drawn.shape == blank.shape else f"draws pictures of shape {tuple(drawn.shape)}"
