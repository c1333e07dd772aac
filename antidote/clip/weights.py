"""Initial weights of a study's model: a tag of open_clip, a checkpoint file, or a model folder.

A file may be safetensors, a torch checkpoint (a state dict, or a checkpoint of open_clip's trainer), or a TorchScript
archive as published by OpenAI. Files are read as weights only (`antidote.clip.checkpoints`); a file that would run code
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base import network
from antidote.base.errors import UserError, nearest
from antidote.base.files import check_readable, read_json
from antidote.base.lazy import open_clip
from antidote.base.network import NotFetched
from antidote.clip import checkpoints, torchscript
from antidote.clip.files import CONFIG
from antidote.clip.files import WEIGHTS as OWN_WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

# Names of the weights file in a model folder: as written here, and as in open_clip's Hugging Face repositories.
WEIGHTS = (OWN_WEIGHTS, "open_clip_pytorch_model.bin")

OF_TRANSFORMERS = (
    f"a folder of transformers, it seems, with config.json and no {CONFIG}: convert it to an open_clip model folder"
)


@dataclass(frozen=True)
class Weights:
    """Initial weights.

    Attributes:
        pretrained: the file of a tag, loaded by open_clip; None: no tag.
        state: the tensors of a file, by name; None: no file.
        preprocess: `mean` and `std` that the weights were trained with, if a folder or a tag gives these values.
    """

    pretrained: str | None = None
    state: dict[str, Tensor] | None = None
    preprocess: Mapping[str, Any] | None = None


def find(name: str, pretrained: str, quick_gelu: bool, config: Mapping[str, Any]) -> Weights:
    """Return the weights that `model.pretrained` names; download the weights of a tag.

    Args:
        name: open_clip's name of the model.
        pretrained: `model.pretrained`: a tag, a file or a folder.
        quick_gelu: `model.quick_gelu`.
        config: open_clip's configuration of the model `name`.

    Raises:
        UserError: `pretrained` is neither a file, a model folder nor a tag; the tag cannot be fetched; the weights were
            trained with another activation, about which open_clip would only warn; the folder belongs to another model;
            the file is damaged or does not hold plain weights.
    """
    activation = quick_gelu or bool(config.get("quick_gelu", False))
    path = Path(pretrained)
    if path.is_dir():
        return _folder(path, name, activation, config)
    if path.is_file():
        return _file(path, activation)
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag:
        if ":" in pretrained:
            raise UserError(
                f"model.pretrained: {pretrained!r}: give the path of the repository's folder on this disk, or a tag of "
                f"{name!r}"
            )
        tags = nearest(pretrained, open_clip.list_pretrained_tags_by_model(name))
        raise UserError(f"model.pretrained: {pretrained!r} is neither a file, a folder nor a tag of {name!r}{tags}")
    _check_activation(bool(tag.get("quick_gelu", False)), activation, f"{pretrained!r} of {name!r}")
    try:
        file = network.pretrained(tag)
    except NotFetched as reason:
        place = (tag.get("hf_hub") or tag.get("url")).strip("/")
        raise UserError(
            f"model.pretrained: {pretrained!r} cannot be downloaded ({reason}); put the weights file of {place} here "
            f"and give its path"
        ) from None
    return Weights(str(file), preprocess=tag)


def files(pretrained: str | None) -> list[str]:
    """Return the files that `model.pretrained` names; [] for a tag."""
    path = Path(pretrained or "")
    if pretrained and path.is_dir():
        return [str(path / name) for name in (CONFIG, *WEIGHTS) if (path / name).is_file()]
    return [pretrained] if pretrained and path.is_file() else []


def weights_file(folder: Path) -> Path | None:
    """Return the weights file of a model folder, safetensors before a torch checkpoint; None: there is none."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def of_transformers(folder: Path) -> bool:
    """Return whether a folder is one of Hugging Face's transformers, by its files."""
    return (folder / "config.json").is_file() and not (folder / CONFIG).is_file()


def _file(path: Path, activation: bool) -> Weights:
    check_readable(path)
    if torchscript.is_archive(path):
        _check_activation(True, activation, f"{path}, a TorchScript archive as OpenAI's")
    return Weights(state=checkpoints.read(path, f"model.pretrained: {path}"))


def _folder(path: Path, name: str, activation: bool, config: Mapping[str, Any]) -> Weights:
    where = f"model.pretrained: {path / CONFIG}"
    if of_transformers(path):
        raise UserError(f"model.pretrained: {path}: {OF_TRANSFORMERS}")
    values = read_json(path / CONFIG)
    if not isinstance(values, dict) or not isinstance(values.get("model_cfg"), dict):
        raise UserError(f"{where}: should hold model_cfg, as open_clip writes it")
    saved = values["model_cfg"]
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if saved.get(key) != config.get(key):
            raise UserError(f"{where}: {key} is not that of {name!r}; name the model that the folder holds")
    _check_activation(bool(saved.get("quick_gelu", False)), activation, str(path))
    file = weights_file(path)
    if file is None:
        raise UserError(f"model.pretrained: {path}: holds neither {' nor '.join(WEIGHTS)}")
    check_readable(file)
    return Weights(state=checkpoints.read(file, f"model.pretrained: {file}"), preprocess=values.get("preprocess_cfg"))


def _check_activation(needed: bool, activation: bool, what: str) -> None:
    if needed != activation:
        raise UserError(f"model.quick_gelu: should be {str(needed).lower()} for the weights {what}")
