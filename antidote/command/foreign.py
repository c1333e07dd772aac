"""A model that somebody else made: checked, loaded, and told in one line what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.clip.files import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from antidote.clip.model import Clip

HERE = {"resize_mode": "shortest", "interpolation": "bicubic"}  # how this project resizes pictures


def load_folder(folder: Path) -> Clip:
    """Load an open_clip model folder.

    Raises:
        UserError: the folder is no model folder, its configuration cannot be used or asks for pictures that are resized
            in another way, or its weights are damaged or not finite.
    """
    from antidote.clip.folder import load_model
    from antidote.clip.weights import weights_file

    if (folder / CONFIG).is_file():
        check_config(read_json(folder / CONFIG), folder / CONFIG)
    return sound(lambda: load_model(folder), str(weights_file(folder) or folder / WEIGHTS))


def sound(load: Callable[[], Clip], where: str) -> Clip:
    """Return a loaded model; `where` begins the error messages.

    Raises:
        UserError: the model cannot be loaded, or its weights are not finite, so that its scores would be no numbers.
    """
    import torch

    try:
        clip = load()
        weights = clip.network.state_dict()
        broken = next((name for name, one in weights.items() if not torch.isfinite(one).all()), None)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError, KeyError, ValueError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[-160:]  # torch says last what happened
        raise UserError(f"{where}: cannot be loaded ({reason}); should hold plain dense tensors") from None
    if broken is not None:
        raise UserError(f"{where}: {broken} holds numbers that are not finite; the file is damaged")
    return clip


def check_config(config: Any, where: Path) -> None:
    """Check what open_clip's configuration says of the towers and of the pictures.

    Raises:
        UserError: a part is missing or has another shape, or the model reads pictures that are resized otherwise: a
            trigger at an edge that this project crops away would not be seen.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"{where}: should hold model_cfg and preprocess_cfg, as open_clip writes them")
    model, pictures = config.get("model_cfg"), config.get("preprocess_cfg")
    for name, part in (("model_cfg", model), ("preprocess_cfg", pictures)):
        if not isinstance(part, Mapping):
            raise UserError(f"{where}: {name}: should hold keys and values, as open_clip writes them, not {part!r}")
    for tower in ("vision_cfg", "text_cfg"):
        if not isinstance(model.get(tower), Mapping):
            raise UserError(f"{where}: model_cfg.{tower}: should hold the tower's sizes, not {model.get(tower)!r}")
    for name in ("mean", "std"):
        values = pictures.get(name)
        if not (isinstance(values, list) and len(values) == 3 and all(_number(one, name == "std") for one in values)):
            what = "three numbers above 0" if name == "std" else "three numbers"
            raise UserError(f"{where}: preprocess_cfg.{name}: should be {what}, one per colour, not {values!r}")
    own = {key: pictures.get(key) or known for key, known in HERE.items()}
    if own["resize_mode"] != HERE["resize_mode"]:
        raise UserError(
            f"{where}: preprocess_cfg.resize_mode: {own['resize_mode']!r} is not supported: pictures are resized by "
            "their shorter side and cropped here, so the model would be shown other pictures than in use"
        )
    if own["interpolation"] != HERE["interpolation"]:
        command_line.log.warning(
            "%s: preprocess_cfg.interpolation: pictures are resized bicubic here, not %s; scores differ slightly",
            where,
            own["interpolation"],
        )


def _number(value: Any, positive: bool) -> bool:
    """Return whether a value is a finite number, and above 0 if it should be; True and False are none."""
    return type(value) in (int, float) and math.isfinite(value) and (value > 0 or not positive)
