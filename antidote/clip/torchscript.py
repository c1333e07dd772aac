"""Weights of a TorchScript archive, the format of OpenAI's CLIP, read without loading the program in the archive.

An archive is a zip file: NAME/data.pkl is a pickle of the module that refers to its tensors, NAME/data/0, ... hold the
tensors' bytes, and NAME/code/ is the program. Only the first two are read. Tensors named by the pickle are built,
modules of the program become plain attribute holders, and any other name is refused: nothing in the archive is
executed.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from antidote.base.lazy import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

STORAGES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "DoubleStorage": "float64", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")


def is_archive(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, which unlike other torch checkpoints has a list of constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript archive by their state dict names.

    Raises:
        pickle.UnpicklingError: the pickle names an object that is neither a tensor nor a module of the program.
        Exception: any error of zipfile and pickle, if the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))

        def storage(kind: torch.dtype, place: str) -> Tensor:
            return torch.frombuffer(bytearray(archive.read(f"{root}data/{int(place)}")), dtype=kind)

        with archive.open(f"{root}data.pkl") as file:
            module = _Reader(file, storage).load()
        return dict(_named(module, ""))


class _Module:
    """A module of the program: attributes only, no code."""


class _Reader(pickle.Unpickler):  # noqa: S301 - `find_class` allows tensors and attribute holders only
    """Builds tensors and attribute holders, refuses all other names."""

    def __init__(self, file: BinaryIO, storage: Callable[[torch.dtype, str], Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in STORAGES:
            return getattr(torch, STORAGES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name in LISTS:
            return _first
        raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a part of the model")

    def persistent_load(self, reference: tuple) -> Tensor:
        _, kind, place, *_ = reference
        return self._storage(kind, place)


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _first(values: Any, *_: Any) -> Any:
    return values


def _named(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _named(value, f"{prefix}{name}.")
