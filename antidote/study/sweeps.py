"""Sweeps: an entry in which a numeric setting is a list is expanded into one entry per value.

The values of a defense are listed from the weakest to the strongest. The tables show the last value within the
accuracy budget.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from antidote.base.settings import Settings


@dataclass(frozen=True)
class Entry:
    """One entry of a study's attacks or defenses.

    Attributes:
        name: name in the matrix; the name of a swept entry ends with its values: `cleanclip_lr0.002`.
        values: method and settings, each a single value.
        sweep: name of the swept entry in the study file; empty for an entry without a sweep.
        setting: the swept values for display, `lr 0.002`; empty without a sweep.
    """

    name: str
    values: dict[str, Any]
    sweep: str = ""
    setting: str = ""


def entries(name: str, values: Mapping[str, Any], groups: Mapping[str, type[Settings]]) -> list[Entry]:
    """Expand one entry of a study file into all combinations of its lists; the last list changes fastest.

    Args:
        groups: the settings class of the entry itself (key "") and of each key that holds a mapping.

    Raises:
        ValueError: a list is empty, holds a value twice, or holds a value that is not a number; begins with the key.
    """
    lists = {path: _numbers(".".join(path), options) for path, options in _lists(values, groups)}
    if not lists:
        return [Entry(name, dict(values))]
    found = []
    for chosen in itertools.product(*lists.values()):
        picked = dict(zip(lists, chosen, strict=True))
        suffix = "".join(f"_{path[-1]}{_short(value)}" for path, value in picked.items())
        setting = ", ".join(f"{path[-1]} {_short(value)}" for path, value in picked.items())
        found.append(Entry(name + suffix, _with(values, picked), name, setting))
    return found


def _lists(
    values: Mapping[str, Any], groups: Mapping[str, type[Settings]], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list]]:
    """Yield the path and the value of every numeric setting that is a list."""
    fields = groups[""].model_fields
    for key, value in values.items():
        inner = groups.get(key) or (_group(fields[key].annotation) if key in fields else None)
        if isinstance(value, list) and key in fields and numeric(fields[key].annotation):
            yield (*above, key), value
        elif isinstance(value, Mapping) and inner:
            yield from _lists(value, {"": inner}, (*above, key))


def numeric(annotation: Any) -> bool:
    """Return whether a setting holds one number, optional or not."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return set(parts) <= {int, float, type(None)} and set(parts) != {type(None)}


def _group(annotation: Any) -> type[Settings] | None:
    parts = (annotation, *get_args(annotation))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, Settings)), None)


def _numbers(key: str, options: list) -> list[float]:
    """Return the values as numbers; YAML reads `5e-4` (no decimal point) as text."""
    if not options:
        raise ValueError(f"{key}: an empty list; a sweep needs values")
    numbers = [_number(value) for value in options]
    if None in numbers:
        raise ValueError(f"{key}: a sweep holds numbers, not {options[numbers.index(None)]!r}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{key}: the sweep {options} names a value twice")
    return numbers


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _short(value: float) -> str:
    """Return a number as written in the name of an entry: `0.002`, `3e-6`, `10`."""
    mantissa, e, exponent = repr(value).removesuffix(".0").partition("e")
    return f"{mantissa}{e}{int(exponent)}" if e else mantissa


def _with(values: Mapping[str, Any], picked: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the entry with each list replaced by the chosen value."""
    found = dict(values)
    for path, value in picked.items():
        key, rest = path[0], path[1:]
        found[key] = _with(found[key], {rest: value}) if rest else value
    return found
