"""Checks of the models that a study names: its own, surrogates, public ones. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antidote.attacks.base import AttackSettings
from antidote.base.errors import UserError, nearest
from antidote.base.files import read_json
from antidote.clip.configs import ModelSettings, check_tokenizer
from antidote.clip.files import CONFIG
from antidote.clip.known import model_config, model_names
from antidote.clip.tags import tag, tags
from antidote.study.file import SurrogateModel


def picture_size(name: str, where: str) -> int:
    """Return the side of the pictures that a model reads, in pixels.

    Raises:
        UserError: the model is unknown, or has a tokenizer that is not there; begins with `where`.
    """
    config = model_config(name)
    if config is None:
        raise UserError(f"{where}: unknown model {name!r}{nearest(name, model_names())}")
    check_tokenizer(config, f"{where}: {name}")
    return int(config["vision_cfg"]["image_size"])


def surrogate_config(
    settings: AttackSettings, own: ModelSettings, surrogates: Mapping[str, SurrogateModel], size: int
) -> dict[str, Any]:
    """Return the configuration of the model that a trigger is fitted on.

    Args:
        settings: of the attack, which may name a `surrogate`.
        own: the study's model.
        surrogates: the study's further models by name.
        size: side of the study's pictures in pixels.

    Raises:
        ValueError: it is neither a model of the study nor a fitting model folder.
    """
    name = settings.fitted_on()
    if name == "clean" or name in surrogates:
        return model_config((own if name == "clean" else surrogates[name].model).name)
    path = Path(name) / CONFIG
    if not path.exists():
        known = ["clean", *surrogates]
        raise ValueError(f"surrogate: {name!r} is neither a model folder nor one of the study{nearest(name, known)}")
    try:
        config = read_json(path)["model_cfg"]
        reads = config["vision_cfg"]["image_size"]
    except UserError as error:
        raise ValueError(f"surrogate: {error}") from None
    except (KeyError, TypeError):
        raise ValueError(f"surrogate: {path} is not the configuration of an open_clip model") from None
    if reads != size:
        raise ValueError(f"surrogate: {name} reads {reads} pixels, the study's model {size}")
    return config


def check_public(model: ModelSettings | None, where: str) -> None:
    """Raise UserError where a public model has an unknown name, or weights that are neither here nor a tag."""
    if model is None:
        return
    picture_size(model.name, where)
    known = Path(model.pretrained).exists() or tag(model.name, model.pretrained)
    if not model.pretrained or not known:
        wrong = f"{model.pretrained!r} is neither a file, a folder nor a tag of {model.name!r}"
        raise UserError(f"{where}: {wrong}{nearest(model.pretrained, tags(model.name))}")
