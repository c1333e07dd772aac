"""Class names, class folders and prompt templates by name: files in `data/`, or open_clip's lists for ImageNet.

`mentions` defines when a caption names a class.
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
        UserError: unknown name, or a file that does not contain a list of distinct texts.
    """
    if name == "openai_imagenet":
        return list(_open_clip().IMAGENET_CLASSNAMES)
    return _distinct(data_file("classes", name, ["openai_imagenet"]))


def folder_names(name: str) -> list[str]:
    """Return names of class folders in label order: `data/folders/{name}.json`.

    `imagenet` contains the WordNet ids of ILSVRC 2012's 1000 classes; `imagenet_a` and `imagenet_r` contain the 200 ids
    in each dataset. Source: timm 1.0 (`timm/data/_info`), in the order of the ids.

    Raises:
        UserError: unknown name, or a file that does not contain a list of distinct texts.
    """
    return _distinct(data_file("folders", name, ["numbers"]))


def templates(name: str) -> list[str]:
    """Return prompt templates, each with one `{}` for the class name.

    Args:
        name: the name of a file in `data/templates`, `openai_imagenet` (80) or `openai_imagenet_simple` (7).

    Raises:
        UserError: unknown name, or a file that does not contain a list of texts with one `{}` each.
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
    """Return the path `data/{kind}/{name}.json`.

    Args:
        kind: models, classes, folders, templates, lexicons or descriptions.
        name: the file's name without the extension.
        built_in: further valid names without a file, for the message.

    Raises:
        UserError: no such file; the message suggests the most similar valid name.
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
    """Return whether a caption contains `word` (one or more words) as whole words, in singular or plural.

    Case is ignored, and any white space matches a space. Only regular English plurals match: -s; -es after s, x, z, ch,
    sh; -ies for a consonant and y; -s or -es after o. The last of several words takes the plural; a name that does not
    end in a letter, such as "kite (bird of prey)", has no plural. Irregular plurals (wolves, mice) do not match.
    CleanCLIP and BadCLIP match the name as a substring of the caption, so also inside other words.
    """
    return _named(word).search(caption) is not None


def mentioning(captions: Collection[str], word: str) -> "np.ndarray":
    """Return bool (N,): whether each caption contains the word; see `mentions`."""
    import numpy as np

    return np.fromiter((mentions(caption, word) for caption in captions), bool, len(captions))


@cache
def _named(word: str) -> "re.Pattern[str]":
    *first, last = word.split()
    text = r"\s+".join([*map(re.escape, first), _singular_or_plural(last)])
    return re.compile(rf"(?<!\w){text}(?!\w)", re.IGNORECASE)


def _singular_or_plural(word: str) -> str:
    """Return a regular expression for the singular and plural of a word."""
    if not word[-1].isalpha():
        return re.escape(word)
    if re.search(r"(s|x|z|ch|sh)$", word, re.IGNORECASE):
        return re.escape(word) + "(?:es)?"
    if re.search(r"[^\Waeiou]y$", word, re.IGNORECASE):
        return re.escape(word[:-1]) + "(?:y|ies)"
    return re.escape(word) + ("(?:e?s)?" if word[-1] in "oO" else "s?")


def one_gap(text: str) -> bool:
    """Return whether a text contains exactly one `{}`, and no other brace that `str.format` would reject."""
    try:
        return [part[1:] for part in Formatter().parse(text) if part[1] is not None] == [("", "", None)]
    except ValueError:
        return False


@cache
def _open_clip() -> ModuleType:
    """Load only open_clip's file of names, because importing the package imports torch."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise UserError("open_clip is not installed; its ImageNet names and templates are needed")
    path = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("antidote_open_clip_names", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_file(kind: str, name: str) -> list[str]:
    """Return the data files of a name, for the inputs of a job.

    Args:
        kind: models, classes, folders, templates, lexicons or descriptions.
        name: a name; names without a file in the project (open_clip's lists and models, `none`) give [].
    """
    file = DATA / kind / f"{name}.json"
    found = lexicon_files(name) if kind == "lexicons" else [file] if file.is_file() else []
    return [str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path) for path in found]
