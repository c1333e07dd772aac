"""Sweeps: where a numeric setting of an entry is a list, the entry stands for one entry per value.

The values of a defense are listed from the weakest to the strongest: of those within the accuracy budget, the tables
show the last.
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
        name: its name in the matrix; a swept entry's ends in the values: `cleanclip_lr0.002`.
        values: its method and settings, each a single value.
        sweep: the name in the study file that it comes from, where that one is swept; else empty.
        setting: the swept values as a reader wants them, `lr 0.002`; else empty.
    """

    name: str
    values: dict[str, Any]
    sweep: str = ""
    setting: str = ""


def entries(name: str, values: Mapping[str, Any], groups: Mapping[str, type[Settings]]) -> list[Entry]:
    """Return the entries that one entry of a study file stands for: all combinations of its lists, the last changing
    fastest.

    Args:
        groups: for the entry itself (key "") and for those of its keys that hold a mapping, the settings class.

    Raises:
        ValueError: a list is empty, holds a value twice, or its values have no names; begins with the key.
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
    """Yield the path and the list of every numeric setting that is one."""
    fields = groups[""].model_fields
    for key, value in values.items():
        inner = groups.get(key) or (_group(fields[key].annotation) if key in fields else None)
        if isinstance(value, list) and key in fields and numeric(fields[key].annotation):
            yield (*above, key), value
        elif isinstance(value, Mapping) and inner:
            yield from _lists(value, {"": inner}, (*above, key))


def numeric(annotation: Any) -> bool:
    """Tell whether a setting holds one number, perhaps an empty one."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return set(parts) <= {int, float, type(None)} and set(parts) != {type(None)}


def _group(annotation: Any) -> type[Settings] | None:
    parts = (annotation, *get_args(annotation))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, Settings)), None)


def _numbers(key: str, options: list) -> list[float]:
    """Return the values as numbers; YAML takes `5e-4`, without a point, for text."""
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
    """Return a number as it stands in a name: `0.002`, `3e-6`, `10`."""
    mantissa, e, exponent = repr(value).removesuffix(".0").partition("e")
    return f"{mantissa}{e}{int(exponent)}" if e else mantissa


def _with(values: Mapping[str, Any], picked: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the entry with a single value in the place of each list."""
    found = dict(values)
    for path, value in picked.items():
        key, rest = path[0], path[1:]
        found[key] = _with(found[key], {rest: value}) if rest else value
    return found
