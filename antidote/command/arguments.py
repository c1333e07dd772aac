"""Arguments that several commands share, each written once, and `--given`: a file that holds some of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from antidote.base import command_line
from antidote.base.settings import Name, Settings, named, read_mapping
from antidote.command import columns, inputs

FILE = "--given"
FILES = "file of `antidote init MODEL`, in place of the model and its data"
LEXICONS = (
    "language resource of the text methods: a name in data/lexicons, wordnet, wordnet:FOLDER of its database files, "
    "spacy:PIPELINE, or none"
)
SHARED: dict[str, dict[str, Any]] = {
    "model": {"help": inputs.MODELS},
    "labelled": {"help": "folder of class folders, or a written split"},
    "pictures": {"help": "folder of pictures, or another dataset"},
    "dataset": {"help": "table, shards, folder, or written split"},
    "--arch": {"help": "architecture of a checkpoint file, such as RN50 or ViT-B-32"},
    "--quick-gelu": {"action": "store_true", "help": "QuickGELU activations, as OpenAI's weights need"},
    "--pairs": {"help": "clean pairs: table, shards, folder, or written split"},
    "--path": {"help": f"column of paths in a table; by default one of {', '.join(columns.PATHS)}"},
    "--image": {"help": f"column of picture files in a table; by default one of {', '.join(columns.BYTES)}"},
    "--caption": {"help": f"column of captions in a table; by default one of {', '.join(columns.CAPTIONS)}"},
    "--shots": {"help": "labelled pictures for few-shot methods: folder of class folders"},
    "--labelled": {"help": "folder of class folders, or a written split: accuracy before and after"},
    "--classes": {"type": Path, "help": "JSON list of class names in label order; by default the class folders"},
    "--templates": {"default": "openai_imagenet", "help": "prompts of the class names, of open_clip or data/templates"},
    "--lexicon": {"default": "function_words", "help": LEXICONS},
    "--settings": {"type": read_mapping, "default": "{}", "metavar": "JSON|FILE", "help": "settings of the method"},
    "--population": {"type": Path, "help": "results/STUDY of your own: scores that an audit compares with"},
    "--shown": {"type": command_line.count, "default": 48, "help": "pictures on the page"},
    "--seed": {"type": command_line.seed, "default": 0},
}
MODEL, COLUMNS = ("--arch", "--quick-gelu"), ("--path", "--image", "--caption")
OF_MODEL = ("arch", "quick_gelu")  # keys of a file that say what its model is


class GivenFile(Settings):
    """A model and its data, as `antidote init MODEL` writes them; every key is an argument of the same name."""

    model: Name | None = None
    arch: Name | None = None
    quick_gelu: bool | None = None
    pairs: Name | None = None
    path: Name | None = None
    image: Name | None = None
    caption: Name | None = None
    shots: Name | None = None
    labelled: Name | None = None
    pictures: Name | None = None
    classes: Annotated[str | list[str] | None, BeforeValidator(named)] = None
    templates: Name | None = None
    lexicon: Name | None = None


class Parser(command_line.Parser):
    """A parser whose defaults are those of the file that `--given` names; no argument in the file is required.

    Architecture and activations in the file are those of its model: another model of the command line does without.
    """

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Read the file, then parse.

        Raises:
            UserError: the file cannot be read, or has an unknown key or a value of another type.
        """
        words = list(sys.argv[1:] if args is None else args)
        file = command_line.Parser(add_help=False, allow_abbrev=False)
        file.add_argument(FILE, nargs="?", help=FILES)
        given = file.parse_known_args(words)[0].given
        values = {} if given is None else GivenFile.read(read_mapping(given), given).model_dump(exclude_none=True)
        for name in COLUMNS:
            key = name.removeprefix("--")
            if key in values:
                values[key] = columns.Keyed(values[key], f"{given}: {key}")
        self._take({name: value for name, value in values.items() if name not in OF_MODEL})
        found, rest = super().parse_known_args(words, namespace)
        if "model" not in values or getattr(found, "model", None) == values["model"]:
            for name in OF_MODEL:
                if name in values and hasattr(found, name):
                    setattr(found, name, getattr(found, name) or values[name])
        return found, rest

    def _take(self, values: dict[str, Any]) -> None:
        for action in self._actions:
            if action.dest in values:
                action.default, action.required = values[action.dest], False
                if not action.option_strings:
                    action.nargs = "?"


def parser(description: str | None, *names: str) -> Parser:
    """Return the parser of a command with some arguments of `SHARED`, and `--given`."""
    made = command_line.parser(description, Parser)
    for name in names:
        made.add_argument(name, **SHARED[name])
    made.add_argument(FILE, metavar="FILE", help=FILES)
    return made
