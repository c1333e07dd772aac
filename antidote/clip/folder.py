"""open_clip models: created by name, saved and loaded as open_clip model folders."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from antidote.base import devices
from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA, check_readable, read_json, whole_folder, write_json
from antidote.base.lazy import open_clip, safetensors_torch, torch
from antidote.base.registry import ADAPTERS, method
from antidote.clip import checkpoints, weights
from antidote.clip.configs import ModelSettings, check_tokenizer
from antidote.clip.files import ADAPTER, ADAPTER_WEIGHTS, CARD, CONFIG, WEIGHTS
from antidote.clip.model import Clip
from antidote.clip.weights import Weights


def device() -> torch.device:
    """Return the GPU that this job may use, otherwise the CPU.

    Raises:
        UserError: a GPU is claimed or named, and torch cannot use it.
    """
    devices.claim()
    usable = torch.cuda.is_available()
    devices.check(usable)
    return torch.device("cuda" if usable else "cpu")


def create_model(settings: ModelSettings, seed: int) -> Clip:
    """Create the study's CLIP with pretrained weights, or with random weights from `seed`.

    Raises:
        UserError: the name or tag is unknown, or the weights do not fit, cannot be fetched, or would run code.
    """
    _add_own_models()
    if ":" in settings.name:  # open_clip would load models from `hf-hub:` and `local-dir:`
        raise UserError(
            f"model.name: {settings.name!r}: should be an architecture, such as ViT-B-32; its weights are named by "
            "model.pretrained"
        )
    config = open_clip.get_model_config(settings.name)
    if config is None:
        raise UserError(f"model.name: unknown model {settings.name!r}{nearest(settings.name, open_clip.list_models())}")
    check_tokenizer(config, f"model.name: {settings.name}")
    start = Weights()
    if settings.pretrained is not None:
        start = weights.find(settings.name, settings.pretrained, settings.quick_gelu, config)
    where = f"model.pretrained: {settings.pretrained}"
    torch.manual_seed(seed)
    network = _architecture(settings.name, where, pretrained=start.pretrained, force_quick_gelu=settings.quick_gelu)
    if start.state is not None:
        checkpoints.fill(network, start.state, f"{where}: cannot be loaded into model {settings.name!r}")
    if settings.quick_gelu:
        config["quick_gelu"] = True
    visual, own = network.visual, start.preprocess or {}
    preprocess = {"mean": list(own.get("mean") or visual.image_mean), "std": list(own.get("std") or visual.image_std),
                  "interpolation": "bicubic", "resize_mode": "shortest"}  # fmt: skip
    return Clip(network, {"model_cfg": config, "preprocess_cfg": preprocess})


def load_model(folder: str | Path) -> Clip:
    """Load a model folder written by `save_model`, or any open_clip model folder, with the adapter in the folder.

    The weights are `open_clip_model.safetensors`, otherwise `open_clip_pytorch_model.bin`; neither can run code.
    Normalisation and activation are those of the folder's configuration.
    The model is in evaluation mode: encoding of pictures neither depends on the batch nor changes running statistics.

    Example:
        clip = load_model("results/default/badnet/seed0/none/model")
        features = clip.encode_image(images)

    Raises:
        UserError: the folder is no model folder, is damaged, or holds the weights of another model.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or not {"model_cfg", "preprocess_cfg"} <= set(config):
        raise UserError(f"{folder / CONFIG}: should hold model_cfg and preprocess_cfg, as open_clip writes them")
    file = weights.weights_file(folder)
    if file is None:
        names = " or ".join(weights.WEIGHTS)
        raise UserError(f"{folder / WEIGHTS}: no such file; a model folder holds {CONFIG} and {names}")
    check_readable(file)
    check_tokenizer(config["model_cfg"], str(folder / CONFIG))
    where = str(file)
    clip = Clip(_architecture(f"local-dir:{folder}", where, load_weights=False, pretrained_text=False), config)
    checkpoints.fill(
        clip.network, checkpoints.read(file, where), f"{where}: cannot be loaded into the model of {CONFIG}"
    )
    clip.network.eval()  # open_clip creates models in training mode
    return _adapted(clip, folder) if (folder / ADAPTER).is_file() else clip


def _adapted(clip: Clip, folder: Path) -> Clip:
    """Return the clip with the adapter named in `adapter.json`, or unchanged for `{"adapter": null}`."""
    description = read_json(folder / ADAPTER)
    kind = description.get("adapter", "") if isinstance(description, dict) else ""
    if kind is None:
        return clip
    if kind not in ADAPTERS:
        raise UserError(f"{folder / ADAPTER}: unknown adapter {kind!r}{nearest(str(kind), ADAPTERS)}")
    check_readable(folder / ADAPTER_WEIGHTS)
    try:
        tensors = safetensors_torch.load_file(folder / ADAPTER_WEIGHTS)
        return method("adapter", kind)(clip.network, clip.config, tensors, description)
    except Exception as error:  # errors of safetensors, missing files, missing keys
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: cannot be read ({' '.join(str(error).split())})") from None


def _architecture(name: str, source: str, **more: Any) -> Any:
    place = device()  # a GPU that cannot be used is no fault of the model
    try:
        with _no_word_of_random_weights():
            return open_clip.create_model(name, device=place, **more)
    except Exception as error:  # damaged files and wrong configurations raise many kinds of errors
        if type(error).__name__ in ("SafetensorError", "UnpicklingError", "EOFError"):
            raise UserError(f"{source}: damaged, or not plain weights, which alone are loaded") from None
        reason = next(line.strip() for line in f"{error}\n{type(error).__name__}".splitlines() if line.strip())
        raise UserError(f"{source}: cannot be loaded into model {name!r} ({_short(reason)})") from None


@contextmanager
def _no_word_of_random_weights() -> Iterator[None]:
    """Hide open_clip's warning that no weights are loaded: they are filled in afterwards, or random as asked for."""
    root = logging.getLogger()  # open_clip logs through it
    root.addFilter(_not_of_random_weights)
    try:
        yield
    finally:
        root.removeFilter(_not_of_random_weights)


def _not_of_random_weights(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("No pretrained weights loaded")


def _short(reason: str, limit: int = 200) -> str:
    return reason if len(reason) <= limit else f"{reason[:limit]} ..."


def save_model(folder: str | Path, clip: Clip, card: dict[str, Any], extra: Sequence[Path] = ()) -> list[str]:
    """Write an open_clip model folder; each file appears complete or not at all.

    Args:
        folder: the model folder.
        clip: the model, with its adapter.
        card: content of card.json; the versions of torch and open_clip are added.
        extra: further files to copy into the folder.

    Returns:
        Names of the written files.
    """
    with whole_folder(folder) as temporary:
        state = {name: tensor.contiguous().cpu() for name, tensor in clip.network.state_dict().items()}
        safetensors_torch.save_file(state, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(clip.config, indent=2) + "\n", encoding="utf-8")
        write_json(temporary / CARD, {**card, "made_with": _versions()})
        _save_adapter(temporary, clip)
        for file in extra:
            shutil.copyfile(file, temporary / file.name)
        return sorted(path.name for path in temporary.iterdir())


def _save_adapter(folder: Path, clip: Clip) -> None:
    """Write both adapter files, empty for a plain clip: every model folder holds the same files."""
    description, tensors = clip.added() or ({"adapter": None}, {})
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    safetensors_torch.save_file(tensors, folder / ADAPTER_WEIGHTS)
    write_json(folder / ADAPTER, description)


def adapter_facts(clip: Clip | None) -> dict[str, str]:
    """Return what a card says of the adapter that a defense made; {} for a plain clip, or for None.

    Returns:
        `adapter`, its name, and `not_protected`, the uses of the model that it does not protect.
    """
    added = clip.added() if clip else None
    if not added:
        return {}
    name = added[0]["adapter"]
    return {"adapter": name, "not_protected": method("adapter", name).unprotected}


def model_files(folder: Path) -> list[Path]:
    """Return the existing files that define a model."""
    files = [folder / CONFIG, weights.weights_file(folder), folder / ADAPTER, folder / ADAPTER_WEIGHTS]
    return [file for file in files if file is not None and file.is_file()]


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "open_clip_torch")}


@cache
def _add_own_models() -> None:
    open_clip.add_model_config(DATA / "models")
