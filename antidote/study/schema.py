"""The JSON Schema of a study file, from the settings classes that validate study files. Imports no torch.

Editors use the schema to complete and check a study file; a run does not use the schema. Only `antidote.study.study`
checks conditions on more than one key (a pool that is too small, a target that is not among the classes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from antidote.base.files import DATA
from antidote.base.registry import AXES, KINDS, SOURCES, method
from antidote.base.settings import Settings
from antidote.clip.known import model_names
from antidote.data.pools import PoolsSettings
from antidote.data.store.datasets import known_datasets
from antidote.study.file import PoisoningSettings, StudyFile
from antidote.study.layout import NAME, RESERVED

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SWEEP, SWEPT = "Sweep", "Swept"
DESCRIBED = (*AXES, "source")  # kinds of methods that a study file can name
BUILT_IN = {"classes": ["openai_imagenet"], "templates": ["openai_imagenet", "openai_imagenet_simple"]}


def study_schema() -> dict[str, Any]:
    """Return the schema: one definition per settings class, with alternatives by `method` and by `source`."""
    study, definitions, names = _bodies()
    properties = study["properties"]
    properties["study"] |= _entry_name()
    for kind in AXES:
        entries = {"propertyNames": _entry_name(), "additionalProperties": _one_of(names, kind)}
        properties[f"{kind}s"] |= entries
    properties["defenses"]["properties"] = {"none": _ref(names[settings_of("defense", "none")])}
    properties["datasets"] |= _datasets(names, definitions)
    _suggest(properties, definitions)
    head = {"$schema": DIALECT, "title": "A study of Antidote"}
    return {**head, **_tidy(study), "$defs": _tidy(dict(sorted(definitions.items())))}


def settings_of(kind: str, name: str) -> type[Settings]:
    """Return the settings class of a method; a data source class is itself the settings class."""
    found = method(kind, name)
    return found if kind == "source" else found.Settings


def group_of(annotation: Any) -> type[Settings] | None:
    """Return the settings class that a field holds, optional or not; None for a plain value."""
    parts = (annotation, *getattr(annotation, "__args__", ()))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, Settings)), None)


def meaning(group: type[Settings], name: str) -> str:
    """Return the description of a key: its own, else that of a base class, else the first line of its group."""
    for base in group.__mro__:
        field = getattr(base, "model_fields", {}).get(name)
        if field is not None and field.description:
            return field.description
    inner = group_of(group.model_fields[name].annotation)
    if inner:
        return first_line(inner.__doc__)
    return {"method": "name of the method", "source": "kind of source"}.get(name, "")


def first_line(text: str | None) -> str:
    """Return the first line of a docstring without its full stop."""
    return (text or "").strip().partition("\n")[0].rstrip(".")


def _bodies() -> tuple[dict[str, Any], dict[str, Any], dict[type, str]]:
    """Return the schema of the study file, the schemas of all other classes by name, and the name of each class."""
    entries = [(kind, name) for kind in DESCRIBED for name in KINDS[kind]]
    classes = _with_groups([StudyFile, *(settings_of(kind, name) for kind, name in entries)])
    references, found = models_json_schema([(c, "validation") for c in classes], ref_template="#/$defs/{model}")
    names = {c: references[c, "validation"]["$ref"].rpartition("/")[2] for c in classes}
    definitions = found["$defs"]
    for group in classes:
        for key, body in definitions[names[group]].get("properties", {}).items():
            body["description"] = meaning(group, key)
    definitions["Changes"] = _changes(definitions[names[PoisoningSettings]])
    definitions[names[PoolsSettings]]["properties"]["training"]["required"] = ["dataset", "split", "pairs"]
    for kind, name in entries:
        _complete(definitions[names[settings_of(kind, name)]], kind, name)
        if kind != "source":
            own = names[settings_of(kind, name)]
            definitions[own] = _sweepable(definitions[own], definitions)
    definitions[SWEEP] = {
        "description": "a sweep: one entry per value, those of a defense from the weakest to the strongest",
        **{"type": "array", "items": {"type": "number"}, "minItems": 1, "uniqueItems": True},
    }
    return definitions.pop(names[StudyFile]), definitions, names


def _with_groups(classes: Iterable[type[Settings]]) -> list[type[Settings]]:
    """Return the classes and all classes nested in their fields, without repetition."""

    def walk(group: type[Settings]) -> Iterator[type[Settings]]:
        yield group
        for field in group.model_fields.values():
            inner = group_of(field.annotation)
            if inner:
                yield from walk(inner)

    return list(dict.fromkeys(inner for group in classes for inner in walk(group)))


def _complete(body: dict[str, Any], kind: str, name: str) -> None:
    """Add facts that pydantic lacks: the key that selects the method is required; the names of the presets."""
    key = "source" if kind == "source" else "method"
    body["required"] = [key, *(k for k in body.get("required", []) if k != key)]
    if kind == "attack":
        properties = body["properties"]
        presets = [*settings_of(kind, name).presets, None]
        properties["preset"] = {"description": properties["preset"]["description"], "default": None, "enum": presets}
        properties["training"] = {"description": properties["training"]["description"], **_ref("Changes")}


def _sweepable(body: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema in which every number may also be a list of numbers; nested groups are changed likewise."""
    properties = {}
    for key, value in body.get("properties", {}).items():
        inner = value.get("$ref", "").rpartition("/")[2]
        own = value.get("anyOf", [{k: v for k, v in value.items() if k not in ("description", "default", "title")}])
        types = {option.get("type") for option in own}
        if inner:
            if SWEPT + inner not in definitions:
                definitions[SWEPT + inner] = _sweepable(definitions[inner], definitions)
            value = {**value, **_ref(SWEPT + inner)}
        elif types <= {"integer", "number", "null"} and types != {"null"}:
            value = {
                **{k: v for k, v in value.items() if k in ("description", "default")},
                "anyOf": [*own, _ref(SWEEP)],
            }
        properties[key] = value
    return {**body, "properties": properties}


def _entry_name() -> dict[str, Any]:
    """Return the schema of an entry name; the name becomes a folder in results/."""
    return {"pattern": f"^{NAME.pattern}$", "not": {"enum": sorted(RESERVED)}}


def _one_of(names: dict[type, str], kind: str) -> dict[str, Any]:
    return {"oneOf": [_ref(names[settings_of(kind, name)]) for name in KINDS[kind]]}


def _datasets(names: dict[type, str], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of `datasets`: changes to known datasets, and full definitions of other datasets."""
    known = {}
    for dataset, values in known_datasets().items():
        own = names[settings_of("source", values["source"])]
        definitions[f"ChangesTo{own}"] = _changes(definitions[own])
        others = [_ref(names[settings_of("source", name)]) for name in SOURCES if name != values["source"]]
        known[dataset] = {"anyOf": [_ref(f"ChangesTo{own}"), *others]}
    return {"properties": known, "additionalProperties": _one_of(names, "source")}


def _changes(body: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows any subset of the keys: no key is required and no key has a default."""
    properties = {
        name: {k: v for k, v in value.items() if k != "default"} for name, value in body["properties"].items()
    }
    return {**{k: v for k, v in body.items() if k not in ("required", "description")}, "properties": properties}


def _suggest(properties: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Add known names as examples for editors; other names stay valid, since a study may use its own files."""
    files = {kind: _files(kind) for kind in ("classes", "templates", "lexicons")}
    definitions["ModelSettings"]["properties"]["name"]["examples"] = model_names()
    properties["lexicon"]["examples"] = files["lexicons"]
    for body in definitions.values():
        for key in ("classes", "templates"):
            if key in body.get("properties", {}):
                body["properties"][key]["examples"] = [*files[key], *BUILT_IN[key]]
    for name in ("EvaluationSettings", "Pool", "Shots"):
        definitions[name]["properties"]["dataset"]["examples"] = list(known_datasets())


def _files(kind: str) -> list[str]:
    return sorted(path.stem for path in (DATA / kind).glob("*.json"))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _tidy(value: Any) -> Any:
    """Drop pydantic's titles, since titles repeat the key, and group defaults, since editors would paste them."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    dropped = {"title": str, "default": dict}
    kept = {k: v for k, v in value.items() if not isinstance(v, dropped.get(k, ()))}
    return {k: v if k in ("default", "examples", "enum") else _tidy(v) for k, v in kept.items()}
