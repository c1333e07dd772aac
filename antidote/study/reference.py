"""The generated pages of the documentation: every key of a study, and every method. Imports no torch."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_origin

from pydantic_core import PydanticUndefined

from antidote.attacks.base import AttackSettings
from antidote.base.registry import ATTACKS, AXES, DEFENSES, DETECTORS, KINDS, method, module
from antidote.base.settings import Settings
from antidote.data.sources.base import SourceSettings
from antidote.defenses.base import DefenseSettings
from antidote.detectors.base import DetectorSettings
from antidote.study.file import StudyFile
from antidote.study.schema import group_of, meaning, settings_of

WRITTEN = "<!-- Written by scripts/schema.py from the settings classes. Do not edit. -->"
COLUMNS = ["key", "type", "default", "range", "meaning"]
# In brackets, with a year or the number of a preprint: `(Gu et al. 2017, [arXiv 1708.06733](https://...))`.
WORK = r"\(((?:[^()]|\([^()]*\))*?\d{4}(?:[^()]|\([^()]*\))*)\)"
BASES = {"attack": AttackSettings, "defense": DefenseSettings, "detector": DetectorSettings, "source": SourceSettings}
INTRODUCTIONS = {
    "attack": "An entry of `attacks` has a name of its own and names its `method`; a method may stand there several "
    "times. What the methods are: [methods](methods.md#attacks).",
    "defense": "An entry of `defenses` has a name of its own and names its `method`; a method may stand there several "
    "times. What the methods are: [methods](methods.md#defenses).",
    "detector": "An entry of `detectors` has a name of its own and names its `method`; a method may stand there "
    "several times. The two controls are added by themselves for every subject that the study has detectors of. What "
    "the methods are: [methods](methods.md#detectors).",
    "source": "An entry of `datasets`, or of `data/datasets.yaml`, names its `source`. See [data](data.md).",
}


def settings_page() -> str:
    """Return `docs/settings.md`: every key with type, default, range and meaning."""
    page = _Page()
    page.add(
        "# Settings",
        WRITTEN,
        "A study is one YAML file. An unknown key, a wrong value or an unknown name stops it at once with one line. "
        "Editors complete the keys from `config.schema.json`.",
        "Words in brackets name the source of a number. A key marked *needed* has no default.",
        "Any number in an entry of `attacks`, `defenses` or `detectors` may be a list; the entry then stands for one "
        "per value, and those of a defense are listed from the weakest to the strongest: see "
        "[protocol](protocol.md#comparing-at-matched-accuracy).",
        "## The study",
        page.table(StudyFile),
    )
    for name, field in StudyFile.model_fields.items():
        group = group_of(field.annotation)
        if group:
            page.group(name, group)
    for kind, title in (("source", "datasets"), *((axis, f"{axis}s") for axis in AXES)):
        page.methods(kind, title)
    return page.text()


def methods_page() -> str:
    """Return `docs/methods.md`: the list of attacks, defenses and detectors, and a description of each method."""
    parts = [
        "# Methods",
        "<!-- Written by scripts/schema.py from the registry and the docstrings. Do not edit. -->",
        "How to add one: [adding a method](adding-a-method.md). Their keys: [settings](settings.md).",
        "## Attacks",
        "*Learned*: the trigger is fitted before use, by default on a surrogate model. *Presets* are variants of the "
        "method, published ones and ours. The threat model says what the attacker holds: some of the training pairs "
        "(`data-poisoning`), the training itself (`training-control`), the encoder that is handed on (`encoder`), or a "
        "few labelled pictures (`few-shot`).",
        _grid(["method", "what it is", "threat model", "learned", "presets", "file"], map(_attack_row, ATTACKS)),
        "## Defenses",
        "*Access* is what the defender has; it gets nothing else. `oracle` marks a control, not a defense: it knows "
        "which pairs are poisoned. *Reconstruction*: the paper leaves parts open; which ones and what stands in for "
        "them is said below.",
        _grid(["method", "what it is", "access", "exact or reconstruction", "file"], map(_defense_row, DEFENSES)),
        "## Detectors",
        "*Subject* is what a detector scores: the suspicious model, the pairs that the model was trained on, or "
        "pictures at use. *Access* is what the detector has besides. `control`: no detector, but what no information "
        "and full information give.",
        _grid(
            ["method", "what it is", "subject", "access", "exact or reconstruction", "file"],
            map(_detector_row, DETECTORS),
        ),
        "## What each is",
        *(part for kind in AXES for name in KINDS[kind] for part in _about(kind, name)),
    ]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Reference:
    """One method as Markdown; links are relative to `docs/`.

    Attributes:
        idea: one sentence.
        papers: the works that the idea names in brackets; empty where it names none.
        text: the further paragraphs of its documentation.
        keys: table of its own keys; empty if it has none.
        shared: table of the keys of every method of its kind.
        presets: list of its presets; empty if it has none.
        module: file of its class, from the top of the checkout.
        anchor: its heading in `docs/methods.md` and `docs/settings.md`.
    """

    idea: str
    papers: tuple[str, ...]
    text: str
    keys: str
    shared: str
    presets: str
    module: str
    anchor: str


def reference(kind: str, name: str) -> Reference:
    """Return what the generated pages say of a method, as in `reference("attack", "badnet")`."""
    idea, group, base = _idea(kind, name), settings_of(kind, name), BASES[kind]
    _, *paragraphs, _ = _about(kind, name)
    return Reference(
        idea=idea,
        papers=tuple(re.findall(WORK, idea)),
        text="\n\n".join(part for part in paragraphs if " ".join(part.split()).rstrip(".") != idea),
        keys=_Page().table(group, without=base),
        shared=_Page().table(base),
        presets=_presets(group),
        module=f"{module(kind, name).replace('.', '/')}.py",
        anchor=_anchor(kind, name),
    )


class _Page:
    """The settings page. A group of keys that the page already contains is linked, not repeated."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._shown: dict[type[Settings], str] = {}  # group -> title of its section
        self._inside: dict[type[Settings], tuple[str, Settings | None]] = {}  # groups in the current table

    def add(self, *parts: str) -> None:
        self._parts += [part for part in parts if part]

    def text(self) -> str:
        return "\n\n".join(self._parts) + "\n"

    def group(self, name: str, group: type[Settings]) -> None:
        """Add the section of one group of the study."""
        shown = next((base for base in group.__mro__[1:] if base in self._shown), None)
        same = f" All keys of {_link(self._shown[shown])}, and:" if shown else ""
        if group in self._shown:
            self.add(f"## {name}", f"The keys of {_link(self._shown[group])}.")
            return
        self._shown[group] = name
        self.add(f"## {name}", _sentence(group.__doc__) + same, self.table(group, without=shown))

    def methods(self, kind: str, title: str) -> None:
        """Add the sections of all methods of one kind: the shared settings first, then one section per method."""
        base = BASES[kind]
        self._shown[base] = title
        self.add(f"## {title}", INTRODUCTIONS[kind], f"Every {kind} has", self.table(base))
        for name in KINDS[kind]:
            group = settings_of(kind, name)
            self.add(
                f"### {name if kind == 'source' else _heading(kind, name)}",
                _sentence(group.__doc__),
                self.table(group, without=base),
                _presets(group),
            )

    def table(self, group: type[Settings], without: type[Settings] | None = None) -> str:
        """Return the keys of a group as a table, without the keys that are the same in the group `without`."""
        self._inside = {}
        names = [name for name in group.model_fields if without is None or not _same(group, without, name)]
        rows = [row for name in names for row in self._rows(group, name, "")]
        return _grid(COLUMNS, rows) if rows else ""

    def _rows(self, group: type[Settings], name: str, prefix: str, given: Settings | None = None) -> list[list[str]]:
        """Return the row of a key; if the key holds a group that the page does not contain yet, also the group's rows.

        `given` holds the defaults if the group is itself the default value of a key.
        """
        field = group.model_fields[name]
        default = getattr(given, name) if given else field.get_default(call_default_factory=True)
        inner = group_of(field.annotation)
        key, text = f"`{prefix}{name}`", _capital(meaning(group, name))
        if group is StudyFile and (inner or name in ("datasets", *(f"{axis}s" for axis in AXES))):
            return [[key, f"keys: {_link(name)}", _default(default), "", text]]
        if inner is None:
            return [[key, _kind(group, name), _default(default), _range(_property(group, name)), text]]
        if inner in self._shown:
            return [[key, f"keys: {_link(self._shown[inner])}", _default(default), "", text]]
        if inner in self._inside:
            first, shown = self._inside[inner]
            return [[key, f"keys: as {first}", _default(default, shown), "", text]]
        held = default if isinstance(default, Settings) else None
        self._inside[inner] = (key, held)
        below = f"{prefix}{name}.NAME." if get_origin(field.annotation) is dict else f"{prefix}{name}."
        rows = [row for part in inner.model_fields for row in self._rows(inner, part, below, held)]
        return [[key, "keys: below", "" if held else _default(default), "", text], *rows]


def _same(group: type[Settings], other: type[Settings], name: str) -> bool:
    """Return whether a key is the same in both classes; the key that selects the method always counts as the same."""
    if name not in other.model_fields:
        return False
    if name in ("method", "source"):
        return True
    mine, theirs = group.model_fields[name], other.model_fields[name]
    return (mine.get_default(), mine.annotation) == (theirs.get_default(), theirs.annotation)


def _property(group: type[Settings], name: str) -> dict[str, Any]:
    """Return pydantic's schema of one key."""
    return _body(group)["properties"][name]


@cache
def _body(group: type[Settings]) -> dict[str, Any]:
    return group.model_json_schema()


def _kind(group: type[Settings], name: str) -> str:
    return _kind_of(_property(group, name), _body(group).get("$defs", {}))


def _kind_of(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in schema:
        inner = definitions[schema["$ref"].rpartition("/")[2]]
        keys = ", ".join(f"`{key}`: {_kind_of(value, definitions)}" for key, value in inner["properties"].items())
        return f"keys ({keys})"
    if "anyOf" in schema:
        kinds = [_kind_of(part, definitions) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join([*kinds, *(["empty"] if {"type": "null"} in schema["anyOf"] else [])])
    if "enum" in schema:
        return ", ".join(f"`{_word(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{_word(schema['const'])}`"
    if schema.get("type") == "array":
        return f"list of {_kind_of(schema['items'], definitions)}" if "items" in schema else "list"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_kind_of(values, definitions)}" if isinstance(values, dict) else "mapping"
    return {"string": "text", "boolean": "true, false"}.get(schema.get("type", ""), schema.get("type", "any"))


def _range(schema: dict[str, Any]) -> str:
    """Return the limits of a number, or of the length of a list."""
    schema = next((part for part in schema.get("anyOf", []) if part.get("type") != "null"), schema)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in words.items() if key in schema]
    if "minItems" in schema:
        exact = schema["minItems"] == schema.get("maxItems")
        limits.append(f"{'' if exact else '≥ '}{schema['minItems']} of them")
    return ", ".join(limits)


def _default(default: Any, shown: Settings | None = None) -> str:
    """Return a default as written in a study file; for a group, the keys that differ from `shown` or from its class."""
    if default is PydanticUndefined:
        return "*needed*"
    if isinstance(default, Settings):
        shown = (
            dict(shown) if shown else {key: field.get_default() for key, field in type(default).model_fields.items()}
        )
        changed = [f"`{key}: {_word(value)}`" for key, value in default if shown[key] != value]
        return ", ".join(changed) or "as there"
    if default is None or default in ("", {}, []):
        return "empty"
    return f"`{_word(default)}`"


def _presets(group: type[Settings]) -> str:
    lines = []
    for name, values in getattr(group, "presets", {}).items():
        keys = ", ".join(f"`{key}: {_word(value)}`" for key, value in values.items())
        lines.append(f"- `{name}`: {keys}")
    return "\n".join(["Presets:", "", *lines]) if lines else ""


def _word(value: Any) -> str:
    """Return a value in YAML notation."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_word, value))}]"
    return "empty" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _attack_row(name: str) -> list[str]:
    found = method("attack", name)
    presets = ", ".join(f"`{preset}`" for preset in found.Settings.presets)
    learned = "yes" if found.learned else "no"
    return [_link(name), _idea("attack", name), found.threat_model, learned, presets, _file("attack", name)]


def _defense_row(name: str) -> list[str]:
    found = method("defense", name)
    exact = "reconstruction" if found.reconstruction else "" if found.access == "nothing" else "exact"
    return [_link(name), _idea("defense", name), found.access, exact, _file("defense", name)]


def _detector_row(name: str) -> list[str]:
    found = method("detector", name)
    exact = "control" if found.control else "reconstruction" if found.reconstruction else "exact"
    subject = "any" if found.control else found.subject
    access = {"truth": "oracle"}.get(found.control, found.access)
    return [
        f"[{name}](#{_anchor('detector', name)})",
        _idea("detector", name),
        subject,
        access,
        exact,
        _file("detector", name),
    ]


def _idea(kind: str, name: str) -> str:
    """Return the first paragraph of the module docstring as one line; for a module's second method, of the class."""
    found = method(kind, name)
    first = next(other for other in KINDS[kind] if module(kind, other) == module(kind, name))
    text = _docstring(found)[0] if first == name else _sentence(found.__doc__)
    return " ".join(_paragraph(text).split()).rstrip(".")


def _about(kind: str, name: str) -> list[str]:
    """Return the section of one method: the docstrings of its class and its module."""
    found = method(kind, name)
    paragraphs = [*_docstring(found), _sentence(found.__doc__)]
    keys = f"Keys: [settings](settings.md#{_anchor(kind, name)})."
    return [f"### {_heading(kind, name)}", *map(_paragraph, paragraphs), keys]


def _heading(kind: str, name: str) -> str:
    """Return a method's heading: its name, followed by its kind if a method of an earlier kind has the same name."""
    first = next(other for other in AXES if name in KINDS[other])
    return name if first == kind else f"{name} ({kind})"


def _anchor(kind: str, name: str) -> str:
    return re.sub(r"[^\w-]", "", _heading(kind, name).replace(" ", "-"))


def _docstring(found: type) -> list[str]:
    """Return the paragraphs of the docstring of a method's module."""
    return re.split(r"\n\s*\n", inspect.getdoc(sys.modules[found.__module__]) or "")


def _paragraph(text: str) -> str:
    """Return a docstring paragraph as Markdown: indented paragraphs are formulas, others get links to papers."""
    if text.startswith("    "):
        return f"```text\n{textwrap.dedent(text)}\n```"
    text = re.sub(r"([*<])", r"\\\1", text)
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _file(kind: str, name: str) -> str:
    path = f"{module(kind, name).replace('.', '/')}.py"
    return f"[{path.rpartition('/')[2]}](../{path})"


def _link(name: str) -> str:
    return f"[{name}](#{name.lower().replace('.', '')})"


def _grid(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def _sentence(doc: str | None) -> str:
    return " ".join((inspect.cleandoc(doc) if doc else "").split())


def _capital(text: str) -> str:
    """Return a description without full stop, capitalised unless the text begins with a value or a symbol."""
    text = text.rstrip(".")
    first = re.match(r"\S*", text)[0]
    return text[:1].upper() + text[1:] if re.fullmatch(r"[a-z]+,?", first) else text
