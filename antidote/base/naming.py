"""Names in a study that become folders, words of a command, and files that Snakemake waits for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from antidote.base.errors import UserError

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Folders of data/ that hold something else than a dataset.
TAKEN = {"classes", "downloads", "folders", "lexicons", "logs", "models", "tables", "templates", "wordnet"}
BRACES = re.compile(r"\{\s*\w[^{}]*\}")


def check_dataset(name: str, splits: Iterable[str]) -> None:
    """Check the name of a dataset, which may have parts as `wds/flickr30k` has, and of its splits: data/NAME/SPLIT/.

    Raises:
        UserError: a name holds other characters, leads out of data/, or is that of another folder there.
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
    """Check names of files, by their key in the study, that jobs wait for.

    Raises:
        UserError: one holds a word in braces, which Snakemake takes for a wildcard and has no way to quote.
    """
    for key, name in names.items():
        found = BRACES.search(name or "")
        if found:
            raise UserError(
                f"{key}: {name!r} holds {found[0]}, which Snakemake takes for a wildcard; give the file another name"
            )
