"""Class names, class folders and prompt templates, by name: files in `data/`, or open_clip's lists for ImageNet; and
what it means that a caption names a class.
"""

import importlib.util
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from string import Formatter
from types import ModuleType
from typing import TYPE_CHECKING

from antidote.base.errors import UserError, nearest, put_in_quotes
from antidote.base.files import DATA, read_json
from antidote.data.words.lexicon import lexicon_files

if TYPE_CHECKING:
    import numpy as np


def class_names(name: str) -> list[str]:
    """Return the class names in label order: `data/classes/{name}.json`, or `openai_imagenet` (1000).

    Raises:
        UserError: unknown name, or a file that is not a list of distinct texts.
    """
    if name == "openai_imagenet":
        return list(_open_clip().IMAGENET_CLASSNAMES)
    return _distinct(data_file("classes", name, ["openai_imagenet"]))


def folder_names(name: str) -> list[str]:
    """Return names of class folders in label order: `data/folders/{name}.json`.

    `imagenet` holds the WordNet ids of ILSVRC 2012's 1000 classes, `imagenet_a` and `imagenet_r` those 200 of them that
    the sets show; all as timm 1.0 lists them (`timm/data/_info`), in the order of the ids.

    Raises:
        UserError: unknown name, or a file that is not a list of distinct texts.
    """
    return _distinct(data_file("folders", name, ["numbers"]))


def templates(name: str) -> list[str]:
    """Return prompt templates, each with one `{}` for the class name: `data/templates/{name}.json`, or
    `openai_imagenet` (80) or `openai_imagenet_simple` (7).

    Raises:
        UserError: unknown name, or a file that is not a list of texts with one `{}` each.
    """
    if name == "openai_imagenet":
        return [template("{}") for template in _open_clip().OPENAI_IMAGENET_TEMPLATES]
    if name == "openai_imagenet_simple":
        return [template("{}") for template in _open_clip().SIMPLE_IMAGENET_TEMPLATES]
    path = data_file("templates", name, ["openai_imagenet", "openai_imagenet_simple"])
    texts = _texts(path)
    for text in texts:
        if not one_gap(text):
            raise UserError(f"{path}: {text!r} should hold one {{}} for the class name")
    return texts


def data_file(kind: str, name: str, built_in: list[str]) -> Path:
    """Return `data/{kind}/{name}.json`.

    Raises:
        UserError: there is none; names the nearest one, or the nearest of `built_in`.
    """
    known = {path.stem: path for path in (DATA / kind).glob("*.json")}
    if name not in known:
        raise UserError(f"{kind}: unknown name {name!r}{nearest(name, [*known, *built_in])}")
    return known[name]


def _distinct(path: Path) -> list[str]:
    names = _texts(path)
    twice = next((word for word in names if names.count(word) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: {twice!r} stands there twice")
    return names


def _texts(path: Path) -> list[str]:
    texts = read_json(path)
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts)):
        other = next((text for text in texts if not isinstance(text, str)), "") if isinstance(texts, list) else ""
        raise UserError(
            f"{path}: should hold a JSON list of texts"
            + ("" if isinstance(other, str) else f", not {other!r}{put_in_quotes(other)}")
        )
    return texts


def mentions(caption: str, word: str) -> bool:
    """Tell whether a caption names `word`, which is one or more words: as whole words, in the singular or the plural.

    Case does not count, and any white space serves as a space. The plural is English and regular: -s; -es after s, x,
    z, ch, sh; -ies for a consonant and y; -s or -es after o. Of several words the last one takes it; a name that does
    not end in a letter, such as "kite (bird of prey)", has none. Irregular plurals (wolves, mice) are not known.
    CleanCLIP and BadCLIP look for the letters of the name anywhere in a caption: in plurals, and inside other words.
    """
    return _named(word).search(caption) is not None


def mentioning(captions: Collection[str], word: str) -> "np.ndarray":
    """Return bool (N,): which captions name the word; see `mentions`."""
    import numpy as np

    return np.fromiter((mentions(caption, word) for caption in captions), bool, len(captions))


@cache
def _named(word: str) -> "re.Pattern[str]":
    *first, last = word.split()
    text = r"\s+".join([*map(re.escape, first), _singular_or_plural(last)])
    return re.compile(rf"(?<!\w){text}(?!\w)", re.IGNORECASE)


def _singular_or_plural(word: str) -> str:
    """Return a pattern of a word's two forms."""
    if not word[-1].isalpha():
        return re.escape(word)
    if re.search(r"(s|x|z|ch|sh)$", word, re.IGNORECASE):
        return re.escape(word) + "(?:es)?"
    if re.search(r"[^\Waeiou]y$", word, re.IGNORECASE):
        return re.escape(word[:-1]) + "(?:y|ies)"
    return re.escape(word) + ("(?:e?s)?" if word[-1] in "oO" else "s?")


def one_gap(text: str) -> bool:
    """Tell whether a text holds one plain `{}`, and no brace beside it that `str.format` would stumble over."""
    try:
        return [part[1:] for part in Formatter().parse(text) if part[1] is not None] == [("", "", None)]
    except ValueError:
        return False


@cache
def _open_clip() -> ModuleType:
    """Load open_clip's file of names alone: importing the package would import torch."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise UserError("open_clip is not installed; its ImageNet names and templates are needed")
    path = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("antidote_open_clip_names", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_file(kind: str, name: str) -> list[str]:
    """Return the data files behind a name (kind: models, classes, folders, templates, lexicons) as a job's inputs.

    Names that the project has no file for (open_clip's own lists and models, `none`) give [].
    """
    file = DATA / kind / f"{name}.json"
    found = lexicon_files(name) if kind == "lexicons" else [file] if file.is_file() else []
    return [str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path) for path in found]
