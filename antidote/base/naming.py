"""Names in a study that become folders, command-line arguments, and input files of Snakemake."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from antidote.base.errors import UserError

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Folders of data/ that are not datasets.
TAKEN = {"classes", "downloads", "folders", "lexicons", "logs", "models", "tables", "templates", "wordnet"}
BRACES = re.compile(r"\{\s*\w[^{}]*\}")


def check_dataset(name: str, splits: Iterable[str]) -> None:
    """Check the name of a dataset, which may have parts as in `wds/flickr30k`, and of its splits: data/NAME/SPLIT/.

    Raises:
        UserError: a name has invalid characters, points outside data/, or belongs to another folder of data/.
    """
    parts = name.split("/")
    if not all(PART.fullmatch(part) for part in parts):
        raise UserError(
            f"datasets: name {name!r} may hold letters of ASCII, digits, _ . -, and / between parts that begin with a "
            "letter or a digit"
        )
    if parts[0] in TAKEN:
        raise UserError(f"datasets: name {name!r} is taken by the layout of data/")
    for split in splits:
        if not PART.fullmatch(split):
            raise UserError(
                f"datasets.{name}.splits: name {split!r} may hold letters of ASCII, digits, _ . -, and begins with a "
                "letter or a digit"
            )


def check_inputs(names: Mapping[str, str | None]) -> None:
    """Check the names of files that jobs depend on, given by their key in the study.

    Raises:
        UserError: a name contains a word in braces, which Snakemake parses as a wildcard and cannot quote.
    """
    for key, name in names.items():
        match = BRACES.search(name or "")
        if match:
            raise UserError(
                f"{key}: {name!r} holds {match[0]}, which Snakemake takes for a wildcard; give the file another name"
            )
