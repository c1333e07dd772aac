"""Checks of the models that a study names: the study's model, surrogates, public models. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antidote.attacks.base import AttackSettings
from antidote.base.errors import UserError, nearest
from antidote.base.files import read_json
from antidote.base.registry import method
from antidote.clip import zoo
from antidote.clip.configs import ModelSettings, check_tokenizer
from antidote.clip.files import CONFIG
from antidote.clip.known import model_config, model_names
from antidote.clip.tags import tag, tags
from antidote.study.file import PoisoningSettings, SurrogateModel


def picture_size(name: str, where: str) -> int:
    """Return the side of a model's input pictures, in pixels.

    Raises:
        UserError: the model is unknown, or its tokenizer is missing; the message begins with `where`.
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
        settings: settings of the attack; may name a `surrogate`.
        own: the model of the study.
        surrogates: the further models of the study by name.
        size: side of the pictures of the study, in pixels.

    Raises:
        ValueError: the surrogate is neither a model of the study nor a model folder with the same picture size.
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
    if resized := _resized("", name):
        raise ValueError(f"surrogate: {name} {resized}")
    return config


def loaded(settings: AttackSettings, recipe: PoisoningSettings) -> PoisoningSettings:
    """Return the recipe of an attack whose backdoored model is a released checkpoint: 0 epochs, from these weights.

    Raises:
        ValueError: the checkpoint is missing; the attack trains the model itself; the entry also changes the recipe.
    """
    if not Path(settings.checkpoint).exists():
        raise ValueError(f"checkpoint: {settings.checkpoint!r} is neither a file nor a folder")
    if resized := _resized("", settings.checkpoint):
        raise ValueError(f"checkpoint: {settings.checkpoint!r} {resized}")
    if method("attack", settings.method).trains:
        raise ValueError(f"checkpoint: {settings.method} trains the model by its own objective")
    if settings.training:
        raise ValueError("training: has no effect, since `checkpoint` is loaded and not trained")
    return recipe.model_copy(update={"epochs": 0, "start": "model", "alternate": False})


def initial_model(model: ModelSettings, attack: AttackSettings) -> ModelSettings:
    """Return the model that an attack's training starts from: the study's, with the weights of a named `checkpoint`."""
    return model if attack.checkpoint is None else model.model_copy(update={"pretrained": attack.checkpoint})


def check_pictures(model: ModelSettings, where: str) -> None:
    """Raise UserError if pretrained weights read pictures that are resized in another way than here.

    Whether the weights exist is checked where they are loaded.
    """
    if model.pretrained and (resized := _resized(model.name, model.pretrained)):
        raise UserError(f"{where}.pretrained: {model.pretrained!r} {resized}")


def _resized(name: str, pretrained: str) -> str:
    """Return what is wrong with the resizing of pictures that weights were trained with; empty if nothing is known.

    Args:
        name: name of the model.
        pretrained: a model folder, a file in one, or a tag of open_clip.
    """
    folder = Path(pretrained)
    config = (folder if folder.is_dir() else folder.parent) / CONFIG
    if folder.exists():
        known = read_json(config) if config.is_file() else None
        entry = known.get("preprocess_cfg") if isinstance(known, dict) else None
    else:
        entry = tag(name, pretrained)
    mode = entry.get("resize_mode") if isinstance(entry, dict) else None
    if mode in (None, "shortest"):
        return ""
    return (
        f"reads pictures that are resized by {mode!r}; pictures are resized by their shorter side and cropped here, so "
        "the model would be shown other pictures than in use"
    )


def check_public(model: ModelSettings | None, where: str) -> None:
    """Raise UserError if a public model has an unknown name, or weights that are neither a local path nor a tag."""
    if model is None:
        return
    picture_size(model.name, where)
    if not Path(model.pretrained).exists() and not tag(model.name, model.pretrained):
        wrong = f"{model.pretrained!r} is neither a file, a folder nor a tag of {model.name!r}"
        raise UserError(f"{where}: {wrong}{nearest(model.pretrained, tags(model.name))}")
    check_pictures(model, where)


def from_zoo(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return a study's values with the folder of the model in place of each `zoo:NAME`.

    Raises:
        UserError: a model is not in the zoo; the message begins with `where`.
    """
    try:
        return zoo.placed(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
