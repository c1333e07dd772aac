"""Rows of the leaderboard as HTML: what is shown, what is sorted by, what is filtered by."""

from __future__ import annotations

import json
from pathlib import Path
from posixpath import relpath
from typing import Any

import jinja2
import markupsafe

from antidote.base.registry import KINDS
from antidote.study.file import StudyFile
from antidote.summary.exchange import Entry, Figure
from antidote.summary.page import duration
from antidote.summary.site.board import CONTROL, UNDEFENDED, Row

# Columns of figures: name, head, hint. Rates in percent; the smallest ASR and the largest CA are the best.
FIGURES = [
    ("asr1", "ASR@1", "triggered pictures of other classes that are given the target, in percent"),
    ("ca1", "CA@1", "clean pictures that are given their true class, in percent"),
    ("pa", "PA", "triggered pictures that are given their true class, in percent"),
    ("floor", "floor", "ASR@1 of the same trigger on the clean reference model, in percent"),
    ("worst", "worst", "highest ASR@1 while the model is adapted to clean pairs afterwards, in percent"),
]
DETECTION = [("auroc", "AUROC"), ("tpr_at_fpr1", "TPR at 1 % FPR")]
KEYS = {"auroc": "auroc", "tpr_at_fpr1": "tprAtFpr1"}  # keys of these figures in tables.js
CONTROLS = ("random", "oracle")  # detectors that know nothing, and the truth
ALWAYS = ("asr1", "ca1")
BUDGET = 100 * StudyFile.model_fields["accuracy_budget"].default  # percentage points


def render(template: str, **values: Any) -> str:
    """Return a filled template of this folder; those that end with `.html.j2` escape what they are given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)


def table(rows: list[Row], page: str, caption: str, filters: bool = True, without: tuple[str, ...] = ()) -> str:
    """Return a sortable table, with its filters, as one block of HTML.

    Args:
        page: address of the page that holds the table, relative to the top of the site.
        caption: name of the table for readers of the screen.
        without: columns that are left out, `attack` or `defense`; one with the names of the entries takes their place.
    """
    reasons = list(dict.fromkeys(row.unreliable for row in rows if row.unreliable))
    figures = [one for one in FIGURES if one[0] in ALWAYS or any(row.figure(one[0]) for row in rows)]
    lines = [_line(row, page, figures, reasons) for row in rows]
    for line, row in zip(lines, rows, strict=True):
        line["entry"] = ", ".join(getattr(row.result, kind).name for kind in without)
    models = list(dict.fromkeys(line["model"] for line in lines))
    html = render(
        "table.html.j2",
        lines=lines,
        figures=figures,
        caption=caption,
        reasons=[(number, reason, _count(rows, reason)) for number, reason in enumerate(reasons, 1)],
        choices=_choices(lines) if filters else {},
        filters=filters and len(lines) > 1,
        budget=f"{BUDGET:g}",
        models=models,
        without=without,
        entries=bool(without),
        timed=any(line["seconds"] for line in lines),
    )
    return "\n".join(line for line in html.splitlines() if line.strip())


def detections(rows: list[Row], page: str, only: str | None = None) -> str:
    """Return a sortable table of the detectors of some cells as one block of HTML; "" if no cell has one.

    Args:
        page: address of the page that holds the table, relative to the top of the site.
        only: method of the detectors that are shown; None: all. The names of its entries take the place of the method,
            and columns that are the same for all of them are left out.
    """
    lines = [
        {
            "detector": _label(one.detector.label, one.detector.method),
            "detector_entry": _entry(one.detector),
            "entry": one.detector.name,
            "page": method_link("detector", one.detector.method, page),
            "control": one.detector.method in CONTROLS,
            "attack": _label(row.result.attack.label, row.result.attack.method),
            "attack_entry": _entry(row.result.attack),
            "defense": _label(row.result.defense.label, row.result.defense.method),
            "defense_entry": _entry(row.result.defense),
            "subject": one.subject,
            "adaptive": one.adaptive,
            "figures": [(name.replace("_", "-"), *_shown(one.figures.get(name))) for name, _ in DETECTION],
            "access": one.detector.access,
            "exactness": "reconstruction" if one.detector.reconstruction else "exact",
            "source": row.result.source.title,
            "file": relpath(f"leaderboard/{row.file}", page.rpartition("/")[0] or "."),
        }
        for row in rows
        for one in row.result.detections
        if only in (None, one.detector.method)
    ]
    heads = [(KEYS[name], head) for name, head in DETECTION]
    html = render("detectors.html.j2", lines=lines, figures=heads, entries=only is not None) if lines else ""
    return "\n".join(line for line in html.splitlines() if line.strip())


def _line(row: Row, page: str, figures: list[tuple[str, str, str]], reasons: list[str]) -> dict[str, Any]:
    """Return what the template shows of one cell; figures in percent."""
    result, loss = row.result, row.loss
    return {
        "attack": _label(result.attack.label, result.attack.method),
        "defense": _label(result.defense.label, result.defense.method),
        "attack_entry": _entry(result.attack),
        "defense_entry": _entry(result.defense),
        "attack_page": method_link("attack", result.attack.method, page),
        "defense_page": method_link("defense", result.defense.method, page),
        "access": result.defense.access,
        "control": result.defense.access == CONTROL,
        "undefended": result.defense.method == UNDEFENDED,
        "exactness": row.exactness,
        "figures": [(name, *_figure(row, name)) for name, *_ in figures],
        "loss": "" if loss is None else round(100 * loss, 6),
        "loss_text": "" if loss is None else f"{100 * loss:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0"),
        "seeds": row.seeds or "",
        "seconds": result.costs.get("seconds", ""),
        "time": duration(result.costs["seconds"]) if "seconds" in result.costs else "",
        "model": result.model,
        "status": result.status,
        "source": result.source.title,
        "url": result.source.url if result.source.url.startswith(("https://", "http://")) else "",
        "place": result.source.place,
        "file": relpath(f"leaderboard/{row.file}", page.rpartition("/")[0] or "."),
        "reason": reasons.index(row.unreliable) + 1 if row.unreliable else "",
        "unreliable": row.unreliable,
    }


def _figure(row: Row, name: str) -> tuple[str, str | float]:
    """Return a figure as text, `87.9 ± 0.4`, and as a number, in percent; both empty if the cell lacks it."""
    return _shown(row.figure(name))


def _shown(figure: Figure | None) -> tuple[str, str | float]:
    if figure is None:
        return "", ""
    spread = "" if figure.std is None else f" ± {100 * figure.std:.1f}"
    return f"{100 * figure.mean:.1f}{spread}", round(100 * figure.mean, 6)


def _label(label: str, method: str) -> str:
    return label or ("no defense" if method == UNDEFENDED else method)


def _entry(entry: Entry) -> str:
    """Return the name of an entry of the study, if it says more than the method."""
    return entry.name if entry.name != entry.method else ""


def _count(rows: list[Row], reason: str) -> int:
    return sum(row.unreliable == reason for row in rows)


def _choices(lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the values of each filter that are found in the rows, without filters that would have one value."""
    names = ("attack", "defense", "access", "exactness", "model", "source")
    found = {name: list(dict.fromkeys(line[name] for line in lines if line[name] != "")) for name in names}
    found["defense"].sort(key=str.lower)
    return {name: values for name, values in found.items() if len(values) > 1}


def method_link(kind: str, name: str, page: str) -> str:
    """Return the address of a method's page from another page; empty for a method that the project does not have."""
    return relpath(f"methods/{kind}s/{name}.html", page.rpartition("/")[0] or ".") if name in KINDS[kind] else ""


def curves(rows: list[Row]) -> str:
    """Return the persistence curves of the cells as JSON for a `script` element; empty if no cell has one."""
    found = [
        {
            "attack": _label(row.result.attack.label, row.result.attack.method),
            "defense": _label(row.result.defense.label, row.result.defense.method),
            "attack_entry": _entry(row.result.attack),
            "entry": _entry(row.result.defense),
            "undefended": row.result.defense.method == UNDEFENDED,
            "source": row.result.source.title,
            **curve.model_dump(exclude={"points"}),
            "points": [[point.step, 100 * point.score, 100 * point.ca1] for point in curve.points],
        }
        for row in rows
        for curve in row.result.persistence
    ]
    return markupsafe.Markup(json.dumps(found, ensure_ascii=False).replace("<", "\\u003c")) if found else ""
