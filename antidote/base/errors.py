"""Errors that a user can mend, as one line: the input, the fault, and the expected value."""

import difflib
import sys
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import ValidationError

GPU_IS_FULL = ("CUDA error: out of memory", "_ALLOC_FAILED")  # of CUDA itself; of cuBLAS and cuDNN, as in their status


class UserError(Exception):
    """An error that the user can mend; shown as one line without a traceback.

    Example:
        raise UserError(f"{path}: width: {width} is larger than the picture ({size} pixels)")
    """


def out_of_memory(error: BaseException) -> str | None:
    """Return which memory is exhausted according to an error; None for other errors. Does not import torch."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in GPU_IS_FULL):
        return "the GPU's memory"
    return "memory" if isinstance(error, MemoryError) or "can't allocate memory" in str(error) else None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, otherwise the list of known words."""
    known = sorted(known)
    close = _closest(word, known)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def _closest(word: str, known: list[str]) -> list[str]:
    """Return the closest known word as a list; [] if none is close."""
    return difflib.get_close_matches(word, known, n=1, cutoff=0.5)


def one_line(error: ValidationError, where: str, model: type | None = None) -> str:
    """Convert pydantic's report to one line that names the key, the fault and the nearest valid word."""
    first, further = _first(error.errors(), model)
    path = [str(part) for part in first["loc"]]
    more = f" (and {further} more)" if further else ""
    key, kind = ".".join(path), first["type"]
    if kind == "extra_forbidden":
        text = f"{key}: unknown key{nearest(path[-1], _fields(model, path[:-1]))}"
    elif kind == "missing":
        text = f"{key}: is missing"
    elif kind == "value_error":
        text = f"{key + ': ' if key else ''}{first['ctx']['error']}"
    elif path[-1:] == ["[key]"] and not isinstance(first["input"], str):
        text = f"{'.'.join(path[:-2])}: a key should be text, not {first['input']!r}{put_in_quotes(first['input'])}"
    else:
        quotes = put_in_quotes(first["input"]) if kind == "string_type" else ""
        text = f"{key}: {_lower(first['msg'])}, not {first['input']!r}{quotes}"
    return f"{where}: {text}{more}"


def _first(errors: list[Any], model: type | None) -> tuple[Any, int]:
    """Return the fault to report, and the number of further ones; a misspelled key is not missing as well."""
    first = errors[0]
    if first["type"] == "missing":
        *path, missing = first["loc"]
        fields = _fields(model, [str(part) for part in path])
        for other in errors:
            *place, word = other["loc"]
            if other["type"] == "extra_forbidden" and place == path and _closest(str(word), fields) == [missing]:
                return other, len(errors) - 2
    return first, len(errors) - 1


def put_in_quotes(value: Any) -> str:
    """Return the advice to quote a word that YAML has parsed as another type, such as `no`, `on`, 08 or 2024-01-01."""
    return "" if isinstance(value, dict | list) else "; put it in quotes"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _fields(model: Any, path: list[str]) -> list[str]:
    """Return the keys that are valid at a path inside a settings class; [] if the keys are unknown."""
    for part in path:
        if get_origin(model) is dict:  # all keys of a dict have values of the same class
            model = get_args(model)[1]
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        options = (field.annotation, *get_args(field.annotation))
        groups = (option for option in options if hasattr(option, "model_fields") or get_origin(option) is dict)
        model = next(groups, None)
    return [f.alias or name for name, f in getattr(model, "model_fields", {}).items()]
