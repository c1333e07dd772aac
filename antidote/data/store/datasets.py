"""The known datasets (`data/datasets.yaml`) and the datasets that a study defines or changes."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA
from antidote.base.naming import check_dataset, check_inputs
from antidote.base.registry import SOURCES, method
from antidote.base.settings import read_mapping
from antidote.data.sources.base import SourceSettings
from antidote.data.sources.files import braces
from antidote.data.words import names

KEPT = ("classes", "templates", "lexicon")  # keys that stay valid if a study changes the source of a dataset


def dataset_settings(name: str, definitions: Mapping[str, Mapping[str, Any]] | None = None) -> SourceSettings:
    """Return the definition of a dataset.

    Args:
        name: name of a known dataset, or of a dataset in `definitions`.
        definitions: the study's `datasets`, by name. Keys replace the keys of the known dataset with that name;
            mappings extend its mappings. With another `source`, only its classes, templates and lexicon are kept.

    Raises:
        UserError: unknown dataset, source, key or value; the message names it.
    """
    known, own = known_datasets(), dict(definitions or {})
    if name not in known and name not in own:
        raise UserError(f"dataset: unknown name {name!r}{nearest(name, [*known, *own])}")
    values = _merge(known.get(name, {}), own.get(name) or {})
    where = f"datasets.{name}"
    if "source" not in values:
        raise UserError(f"{where}.source: is missing; known: {', '.join(sorted(SOURCES))}")
    if str(values["source"]) not in SOURCES:
        raise UserError(f"{where}.source: unknown source {values['source']!r}{nearest(str(values['source']), SOURCES)}")
    settings = method("source", values["source"]).read(values, where)
    check_dataset(name, settings.split_names())
    check_inputs(_inputs(settings, where))
    _check_names(settings, where)
    return settings


def given_settings(name: str, values: Mapping[str, Any]) -> SourceSettings:
    """Return the settings of a dataset from given values.

    Args:
        name: name of the dataset.
        values: a complete definition, used unchanged; or, without `source`, changes to the known dataset `name`.

    Raises:
        UserError: unknown dataset, key or value; the message names it.
    """
    if values.get("source") in SOURCES:
        return method("source", values["source"]).read(values, f"datasets.{name}")
    return dataset_settings(name, {name: values} if values else None)


def pointers(folder: Path) -> list[Path]:
    """Return the possible paths of DVC's pointer file for a split: beside the split, or beside its dataset."""
    return [folder.with_name(f"{folder.name}.dvc"), folder.parent.with_name(f"{folder.parent.name}.dvc")]


def _inputs(settings: SourceSettings, where: str) -> dict[str, str | None]:
    """Return the names and files that become inputs of a dataset's jobs, by settings key."""
    keys = ("classes", "templates", "folders", "only", "lexicon", *(["subset"] if settings.downloads else []))
    named = {f"{where}.{key}": getattr(settings, key, None) for key in keys}
    tables = settings.splits.items() if settings.downloads else ()
    return named | {f"{where}.splits.{split}": name for split, names in tables for name in braces(names)}


def _check_names(settings: SourceSettings, where: str) -> None:
    """Look up the classes, templates and lexicon of a dataset, so that a wrong name stops a study at its start."""
    try:
        names.templates(settings.templates)
        if settings.classes is not None:
            names.class_names(settings.classes)
        for listed in {getattr(settings, key, None) for key in ("folders", "only")} - {None, "numbers"}:
            names.folder_names(listed)
        if settings.lexicon not in ("none", "wordnet") and not settings.lexicon.startswith(("wordnet:", "spacy:")):
            names.data_file("lexicons", settings.lexicon, ["none", "wordnet"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def known_datasets() -> dict[str, dict[str, Any]]:
    """Return the definitions in `data/datasets.yaml`, which a process reads once."""
    return deepcopy(_definitions(DATA / "datasets.yaml"))


@cache
def _definitions(path: Path) -> dict[str, Any]:
    return read_mapping(str(path))


def _merge(known: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    if "source" in own and own["source"] != known.get("source"):
        known = {key: value for key, value in known.items() if key in KEPT}
    merged = dict(known)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(known.get(key), Mapping)
        merged[key] = {**known[key], **value} if both else value
    return merged
