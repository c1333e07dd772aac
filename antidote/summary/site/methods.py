"""One page per method: what it is, its settings, how to run it, its figures in every track."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from antidote.base.registry import AXES, KINDS, method
from antidote.base.settings import read_mapping
from antidote.study.reference import Reference, reference
from antidote.summary.further import study_files
from antidote.summary.site.board import Board, Row
from antidote.summary.site.tables import CONTROLS, detections, render, table

COMMANDS = {"model": "audit", "pairs": "scan", "pictures": "inspect"}  # by what a detector scores
DATA = {"clean-pairs": " --pairs clean.csv", "few-labelled": " --shots labelled/", "test-time": " --classes names.json"}


class Use(NamedTuple):
    """A study of the checkout that runs a method: its path, and its entries of the method as YAML."""

    path: str
    entries: str


def method_pages(root: Path, boards: list[Board]) -> dict[str, str]:
    """Return the Markdown of the page of every attack, defense and detector by path; links are relative to `docs/`."""
    used, pairs = uses(root), [(kind, name) for kind in AXES for name in KINDS[kind]]
    return {f"methods/{kind}s/{name}.md": method_page(kind, name, boards, used[kind, name]) for kind, name in pairs}


def uses(root: Path) -> dict[tuple[str, str], list[Use]]:
    """Return the studies of a checkout that run each method: the default study, then that of its kind, then others."""
    found = defaultdict(list)
    for path in study_files(root):
        study = read_mapping(str(path))
        for kind in AXES:
            named = study.get(f"{kind}s", {})
            for name in dict.fromkeys(values["method"] for values in named.values()):
                mine = {entry: values for entry, values in named.items() if values["method"] == name}
                found[kind, name].append(Use(path.relative_to(root).as_posix(), _yaml(kind, mine)))
    for (kind, _), studies in found.items():
        first = ("config.yaml", f"configs/{kind}s.yaml")
        studies.sort(key=lambda use: [*first, use.path].index(use.path))
    return found


def method_anchors() -> dict[str, str]:
    """Return the page of each method by its heading in `docs/methods.md`."""
    pairs = [(kind, name) for kind in AXES for name in KINDS[kind]]
    return {reference(kind, name).anchor: f"methods/{kind}s/{name}.md" for kind, name in pairs}


def method_page(kind: str, name: str, boards: list[Board], studies: list[Use]) -> str:
    """Return the page of one method."""
    known, page = reference(kind, name), f"methods/{kind}s/{name}.html"
    tracks = []
    for board in boards:
        if tables := _tables(kind, [row for row in board.rows if _of(row, kind, name)], page, name):
            tracks.append((board, tables))
    return render(
        "method.md.j2",
        kind=kind,
        name=name,
        known=known,
        facts=_facts(kind, name, known),
        entries=entries(kind, name),
        studies=studies,
        commands=_commands(kind, name),
        tracks=tracks,
    )


def entries(kind: str, name: str) -> str:
    """Return a fragment of a study that runs a method and each of its presets; empty for what every study has."""
    if (kind, name) == ("defense", "none") or (kind == "detector" and name in CONTROLS):
        return ""
    presets = getattr(method(kind, name).Settings, "presets", {})
    found = {name: {"method": name}, **{f"{name}_{one}": {"method": name, "preset": one} for one in presets}}
    return _yaml(kind, found)


def _yaml(kind: str, named: dict[str, dict[str, Any]]) -> str:
    return yaml.safe_dump({f"{kind}s": named}, sort_keys=False, default_flow_style=None, width=100).strip()


def _of(row: Row, kind: str, name: str) -> bool:
    """Return whether a cell has figures of a method."""
    if kind == "detector":
        return any(one.detector.method == name for one in row.result.detections)
    return getattr(row.result, kind).method == name


def _tables(kind: str, rows: list[Row], page: str, name: str) -> list[tuple[str, str]]:
    """Return title and table of the measured and of the reported cells."""
    found = []
    for status in ("measured", "reported"):
        mine = [row for row in rows if row.result.status == status]
        if mine:
            caption = f"{status.capitalize()} cells of {name}"
            cells = partial(table, caption=caption, filters=False, without=(kind,))
            shown = partial(detections, only=name) if kind == "detector" else cells
            found.append((status.capitalize(), shown(mine, page)))
    return found


def _facts(kind: str, name: str, known: Reference) -> list[tuple[str, str]]:
    """Return what a method is, as rows of a table."""
    found = method(kind, name)
    papers = "; ".join(known.papers) or "none named: a baseline or a control"
    rows = [("paper", papers if known.papers or "arXiv" not in known.text else "named in the text below")]
    if kind == "attack":
        rows += [("threat model", f"`{found.threat_model}`")]
        rows += [("trigger", "learned: fitted before use" if found.learned else "fixed or drawn: nothing is fitted")]
        rows += [("what it is", "reconstruction" if getattr(found, "reconstruction", False) else "exact")]
    elif kind == "defense":
        control = " (a control, not a defense: it knows which pairs are poisoned)" if found.access == "oracle" else ""
        rows += [("access", f"`{found.access}`{control}")]
        rows += [("what it is", "reconstruction" if found.reconstruction else "exact")] if name != "none" else []
    else:
        rows += [
            (
                "scores",
                "any subject" if found.control else {"pairs": "training pairs"}.get(found.subject, found.subject),
            )
        ]
        rows += [("access", f"`{'oracle' if found.control == 'truth' else found.access}`")]
        exact = "a control, not a detector" if found.control else "reconstruction" if found.reconstruction else "exact"
        rows += [("what it is", exact)]
    path = known.module
    return [*rows, ("source", f"[{path}](../{path})"), ("keys", f"[among all settings](settings.md#{known.anchor})")]


def _commands(kind: str, name: str) -> dict[str, Any]:
    """Return the calls of `antidote` that run a method on a model of one's own, by what they do; empty if none does."""
    found = method(kind, name)
    if kind == "defense" and name != "none":
        data = {"clean-pairs": "--pairs clean.csv", "few-labelled": "--shots labelled/"}.get(found.access)
        return {"clean": f"antidote clean MODEL {data} --defense {name}"} if data else {}
    if kind == "detector" and name not in CONTROLS:
        subject = COMMANDS[found.subject]
        if subject == "scan" and found.access != "nothing":
            return {}
        words = {"audit": "MODEL", "scan": "pairs.csv --model MODEL", "inspect": "MODEL pictures/"}[subject]
        data = "" if subject == "scan" else DATA.get(found.access, "")
        return {subject: f"antidote {subject} {words}{data} --detector {name}"}
    return {}
