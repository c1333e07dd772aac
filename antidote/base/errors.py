"""Errors that a user can mend, as one line: the input, the fault, and the expected value."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Tag, ValidationError

_MISSING = object()
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


def check_choice(kind: type, attribute: str, choices: Iterable[str | None]) -> None:
    """Refuse another value of a method's class attribute when its module is imported, and not in the middle of a job.

    Args:
        kind: the class, of which only its own attributes are looked at.
        attribute: name of the attribute; the class may leave it out.
        choices: valid values.

    Raises:
        UserError: the class has another value.
    """
    value, choices = vars(kind).get(attribute, _MISSING), list(choices)
    if value is not _MISSING and value not in choices:
        close = (
            nearest(value, filter(None, choices))
            if isinstance(value, str)
            else f"; known: {', '.join(map(str, choices))}"
        )
        raise UserError(f"{kind.__module__}.{kind.__qualname__}.{attribute}: unknown value {value!r}{close}")


def one_line(error: ValidationError, where: str, model: type | None = None) -> str:
    """Convert pydantic's report to one line that names the key, the fault and the nearest valid word."""
    first, further = _first(_faults(error.errors(), model))
    path = [str(part) for part in first["loc"]]
    more = f" (and {further} more)" if further else ""
    key, kind = ".".join(path), first["type"]
    if kind == "extra_forbidden":
        text = f"{key}: unknown key{nearest(path[-1], first['known'])}"
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


def _first(errors: list[Any]) -> tuple[Any, int]:
    """Return the fault to report, and the number of further ones; a misspelled key is not missing as well."""
    first = errors[0]
    if first["type"] == "missing":
        *path, missing = first["loc"]
        for other in errors:
            *place, word = other["loc"]
            if (
                other["type"] == "extra_forbidden"
                and place == path
                and _closest(str(word), first["known"]) == [missing]
            ):
                return other, len(errors) - 2
    return first, len(errors) - 1


def put_in_quotes(value: Any) -> str:
    """Return the advice to quote a word that YAML has parsed as another type, such as `no`, `on`, 08 or 2024-01-01."""
    return "" if isinstance(value, dict | list) else "; put it in quotes"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _faults(errors: Sequence[Any], model: type | None) -> list[Any]:
    """Return pydantic's errors with the place as its keys alone, and with the keys that are known beside it.

    Of a union pydantic reports a fault for each kind of value. Those of the kind that fits best are kept; where no kind
    fits at all, the faults become one, which names all kinds.
    """
    groups: dict[Any, list[Any]] = {}
    for number, error in enumerate(errors):
        path, union, _ = _place(model, error["loc"])
        known = _keys(_place(model, error["loc"][:-1])[2])
        groups.setdefault(number if union is None else union, []).append({**error, "loc": path, "known": known})
    found: list[Any] = []
    for union, group in groups.items():
        deepest = max(len(fault["loc"]) for fault in group)
        if isinstance(union, tuple) and len(group) > 1 and deepest == len(union):
            kinds = [group[0]["msg"], *(fault["msg"].removeprefix("Input should be ") for fault in group[1:])]
            base = next((fault for fault in group if fault["type"] == "string_type"), group[0])
            group = [{**base, "msg": " or ".join(kinds)}]
        found += [fault for fault in group if len(fault["loc"]) == deepest]
    return found


def _place(model: Any, loc: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...] | None, Any]:
    """Return the keys in the place of an error, the keys of the first union on the way or None, and the type there."""
    path: list[Any] = []
    union = None
    for part in loc:
        kinds = _kinds(model)
        if len(kinds) > 1:  # the part is pydantic's name of a kind
            union = tuple(path) if union is None else union
            model = next((kind for name, kind in kinds if name == str(part).partition("[")[0]), None)
            continue
        path.append(part)
        model = _inner(kinds[0][1] if kinds else None, part)
    return tuple(path), union, model


def _kinds(annotation: Any) -> list[tuple[str, Any]]:
    """Return the types that a setting accepts beside None, each with the name by which pydantic reports it."""
    if get_origin(annotation) in (Union, UnionType):
        return [kind for option in get_args(annotation) if option is not NoneType for kind in _kinds(option)]
    if get_origin(annotation) is not Annotated:
        return [(getattr(get_origin(annotation) or annotation, "__name__", ""), annotation)]
    inner, *more = get_args(annotation)
    tag = next((one.tag for one in more if isinstance(one, Tag)), None)
    return [(tag or name, kind) for name, kind in _kinds(inner)]


def _inner(kind: Any, part: Any) -> Any:
    """Return the type of the value at a key or a number of a group, a dict, a list or a tuple; None: unknown."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is dict:
        return options[1]
    if origin in (list, tuple):
        return options[part] if part in range(len(options)) and Ellipsis not in options else options[0]
    fields = getattr(kind, "model_fields", {})
    field = fields.get(part) or next((field for field in fields.values() if field.alias == part), None)
    return None if field is None else field.annotation


def _keys(model: Any) -> list[str]:
    """Return the keys of a settings class; [] for another type."""
    kinds = _kinds(model)
    fields = getattr(kinds[0][1], "model_fields", {}) if len(kinds) == 1 else {}
    return [field.alias or name for name, field in fields.items()]
