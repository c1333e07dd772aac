"""Descriptions and synonyms of classes by name: files in `data/descriptions/`, so that no language model is asked.

A file maps class names to `{"synonyms": [...], "descriptions": [...]}`. A class without an entry gets the general
descriptions of `GENERAL` and no synonyms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.data.words.names import data_file

NONE = "none"
GENERAL = (
    "a picture that shows a {} and nothing else",
    "the {} is the main object of this picture",
    "a {} with its usual shape and colour",
    "a {} in the place where it is usually found",
    "a close view of the surface and the parts of a {}",
)
PARTS = ("synonyms", "descriptions")


def load_descriptions(name: str) -> Mapping[str, Mapping[str, list[str]]]:
    """Return synonyms and descriptions by class name; `none` gives {}.

    Raises:
        UserError: unknown name, or a file of another form.
    """
    if name == NONE:
        return {}
    path = data_file("descriptions", name, [NONE])
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: should hold a JSON object of class names")
    for key, entry in found.items():
        lists = [entry.get(part) for part in PARTS] if isinstance(entry, dict) else [None]
        if not all(isinstance(one, list) and all(isinstance(text, str) and text for text in one) for one in lists):
            raise UserError(f"{path}: {key!r} should hold `synonyms` and `descriptions`, two lists of texts")
    return found


def descriptions_of(known: Mapping[str, Mapping[str, list[str]]], classes: Sequence[str]) -> list[list[str]]:
    """Return the descriptions of each class; general ones for a class without an entry."""
    return [
        known.get(name, {}).get("descriptions") or [text.replace("{}", name) for text in GENERAL] for name in classes
    ]


def synonyms_of(known: Mapping[str, Mapping[str, list[str]]], name: str) -> list[str]:
    """Return the synonyms of a class; [] for a class without an entry."""
    return list(known.get(name, {}).get("synonyms", []))
