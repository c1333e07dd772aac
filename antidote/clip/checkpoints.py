"""Weight files of many trainers: read without running code, and loaded into a model by name and shape.

Nothing is adapted silently. Wrappers that add nothing to a model (`module.` of DistributedDataParallel, `_orig_mod.` of
torch.compile, a mapping with `state_dict` or `model`) are removed; any other mismatch is an error that names the first
tensor. open_clip's own reader would resize positional embeddings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.base.lazy import open_clip, safetensors_torch, torch
from antidote.clip import torchscript

if TYPE_CHECKING:
    from torch import Tensor

NOT_PLAIN = "damaged, or not plain weights, which alone are loaded"
CONTAINERS = ("state_dict", "model_state_dict", "model")  # keys under which trainers store the weights
# How torch names the code that a pickle requires, the surest first: "Trying to load unsupported GLOBAL posix.system".
NAMED_CODE = (r"GLOBAL ([\w.]+)", r"(?:Trying to load|class) ([\w.]+)", r"^([\w.]+) is neither")
ADAPTERS = re.compile(r"lora_|adapter|prompt|peft|base_model", re.IGNORECASE)


def read(path: str | Path, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU, by the model's tensor names.

    Args:
        path: safetensors, a torch checkpoint, or a TorchScript archive.
        where: beginning of error messages.

    Raises:
        UserError: the file cannot be read, is damaged, would run code, or holds no named weights.
    """
    path = Path(path)
    try:
        with path.open("rb"):
            pass
    except OSError as error:  # safetensors reports an unreadable file as missing
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    try:
        content = _content(path)
    except Exception as error:  # damaged and malicious files raise many kinds of errors
        raise UserError(f"{where}: {NOT_PLAIN}{_refused(error)}") from None
    return _tensors(content, where)


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors_torch.load_file(path)
    if not torchscript.is_archive(path):
        return torch.load(path, map_location="cpu", weights_only=True)
    state = torchscript.read_weights(path)
    for constant in ("input_resolution", "context_length", "vocab_size"):
        state.pop(constant, None)
    return state


def _refused(error: Exception) -> str:
    """Return the name of the code that a pickle requires, and advice for saving weights without code."""
    found = (re.search(pattern, str(error)) for pattern in NAMED_CODE) if isinstance(error, UnpicklingError) else ()
    name = next((match[1] for match in found if match), None)
    hint = "; it names {}. Where you trust it, save the weights alone with torch.save(model.state_dict(), FILE)"
    return hint.format(name) if name else ""


def _tensors(content: Any, where: str) -> dict[str, Tensor]:
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: holds a {type(content).__name__}; should hold tensors by name, a state_dict")
    if not content:
        raise UserError(f"{where}: holds no tensors")
    other = next((name for name, value in content.items() if not isinstance(value, torch.Tensor)), None)
    if other is not None:
        raise UserError(
            f"{where}: {other!r} is a {type(content[other]).__name__}, not a tensor; should hold tensors by name, a "
            f"state_dict, or have it under {' or '.join(CONTAINERS)}"
        )
    return {_bare(str(name)): value for name, value in content.items()}


def _bare(name: str) -> str:
    """Return a tensor's name without wrapper prefixes; torch.compile may also wrap an inner module."""
    return re.sub(r"^(?:(?:module|_orig_mod)\.)+", "", name).replace("._orig_mod.", ".")


def fill(network: Any, state: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a model; all names and shapes must match, but a scalar may be stored as a list of one number.

    Args:
        network: the open_clip model.
        state: tensors as `read` returns them.
        where: beginning of error messages.

    Raises:
        UserError: tensors are missing, unknown, or have another shape.
    """
    state, expected = _named_for(network, dict(state)), network.state_dict()
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        raise UserError(f"{where}: {_names_differ(expected, state, missing, unknown)}")
    for name, tensor in state.items():
        if name.endswith("logit_scale") or name.endswith("logit_bias"):  # a scalar, or a list with one element
            state[name] = tensor.reshape(expected[name].shape) if tensor.numel() == expected[name].numel() else tensor
    mismatch = next((name for name in expected if state[name].shape != expected[name].shape), None)
    if mismatch is not None:
        shapes = f"{mismatch} is {tuple(state[mismatch].shape)}, the model's {tuple(expected[mismatch].shape)}"
        raise UserError(f"{where}: {shapes}{_of_another(mismatch)}")
    network.load_state_dict(state)


def _named_for(network: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the model's names; open_clip uses two naming schemes for the same model."""
    state = open_clip.convert.convert_state_dict(network, state)
    if "positional_embedding" in state and not hasattr(network, "positional_embedding"):
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    return state


def _names_differ(own: Mapping, state: Mapping, missing: list[str], unknown: list[str]) -> str:
    """Describe the missing and the unknown tensors, and the likely format of the file."""
    differences = [
        *([f"misses {len(missing)} of {len(own)} tensors, first {missing[0]}"] if missing else []),
        *([f"holds {len(unknown)} that the model has not, first {unknown[0]}"] if unknown else []),
    ]
    return _seems(own, missing, unknown) + " and ".join(differences)


def _seems(own: Mapping, missing: list[str], unknown: list[str]) -> str:
    if any(name.startswith(("text_model.", "vision_model.")) for name in unknown):
        return "a file of transformers' CLIP, it seems, to be converted to open_clip's names; "
    if unknown and all(name.endswith("logit_bias") for name in unknown) and not missing:
        return "trained with a bias (open_clip's --siglip), it seems; name a model that has a logit_bias; "
    if unknown and not missing:
        adapter = any(ADAPTERS.search(name) for name in unknown)
        return "with an adapter beside the weights, it seems; merge it or leave it out; " if adapter else ""
    prefix = _prefix(own, unknown)
    return f"saved with a wrapper, it seems; take {prefix!r} off the names; " if prefix else ""


def _prefix(own: Mapping, unknown: list[str]) -> str | None:
    """Return the prefix without which most unknown names are the model's, as `clip.` in `clip.logit_scale`, or None.

    A prefix that begins as the model's own names is none: `visual.attnpool.proj` is of another picture encoder.
    """
    prefixes = Counter(_before_own(own, name) for name in unknown)
    prefix, count = prefixes.most_common(1)[0] if prefixes else (None, 0)
    if prefix is None or 2 * count <= len(unknown):
        return None
    first = prefix.partition(".")[0]
    return None if any(name.startswith(f"{first}.") for name in own) else prefix


def _before_own(own: Mapping, name: str) -> str | None:
    """Return what stands before the longest end of a name that is a name of the model; None: no end is."""
    prefix, dot, rest = name.partition(".")
    while dot and rest not in own:
        more, dot, rest = rest.partition(".")
        prefix = f"{prefix}.{more}"
    return f"{prefix}." if dot else None


def _of_another(name: str) -> str:
    if not name.endswith("positional_embedding"):
        return ""
    what = "pictures of another size" if name.startswith("visual.") else "texts of another length"
    return f"; weights for {what}: name the model that they are of"
