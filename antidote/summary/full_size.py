"""What papers report of the defenses at full size, for "Clean it anyway" of docs/is-my-clip-backdoored.md."""

from __future__ import annotations

import re
from collections.abc import Sequence

from antidote.base.registry import method
from antidote.study.layout import NO_DEFENSE
from antidote.summary.page import duration
from antidote.summary.published import Figure, Published
from antidote.summary.text import RECONSTRUCTION, escaped

DEFENSES = ("ubt", "ta_cleaner", "cleanclip", "par", "invertune", "cbpt", "rvpt")
ASR = {"asr1_change": "ASR@1", "asr10_change": "ASR@10"}
KNOWN = {"figure": "read off a picture", "paper": "read in the paper", "log": "a public log"}
UNSTATED = "not stated in what could be read"


def full_size(published: Published) -> str:
    """Return the table, and a table of reported costs.

    A row is a defense in one of the main tables (`overview`): range over attacks of ASR@1 after the defense in percent
    and of the loss of CA@1 in percentage points, against the undefended model of the same table. Without such a model
    the row has CA@1 itself, in percent.
    """
    rows = [["`--defense`", "model", "ASR@1 left, %", "CA@1 lost, points", "source"], ["---"] * 5]
    for defense in DEFENSES:
        mark = f" {RECONSTRUCTION}" if method("defense", defense).reconstruction else ""
        for figures in _tables(published, defense).values():
            model = published.settings[figures[0].setting].model
            row = [f"`{defense}`{mark}", "" if model == UNSTATED else model, *_measured(published, figures)]
            rows.append([*row, _source(published, figures[0])])
    return f"{_markdown(rows)}\n\n{_markdown(_costs(published))}\n"


def _tables(published: Published, defense: str) -> dict[tuple[str, str, str], list[Figure]]:
    """Return the figures of a defense by main table: paper, setting and source."""
    names = {name for name, one in published.defenses.items() if one.method == defense}
    found: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in published.figures():
        if figure.overview and figure.defense in names:
            found.setdefault((figure.paper, figure.setting, figure.source), []).append(figure)
    return found


def _measured(published: Published, figures: Sequence[Figure]) -> tuple[str, str]:
    """Return what is left of ASR@1 and what is lost of CA@1, as words."""
    if figures[0].against:
        return _changes(published, figures[0])
    by_rate = sorted((one for one in figures if "asr1" in one.values), key=lambda figure: figure.values["asr1"])
    ends = [f"{figure.values['asr1']:g} ({_attack(published, figure)})" for figure in by_rate]
    left = " to ".join(dict.fromkeys([*ends[:1], *ends[-1:]]))
    if len(ends) > 2:
        left += f", {len(ends)} attacks"
    accuracies = [figure.values["ca1"] for figure in figures if "ca1" in figure.values]
    before = _undefended(published, figures[0])
    both = [figure for figure in figures if figure.attack in before and "ca1" in figure.values]
    losses = [before[figure.attack] - figure.values["ca1"] for figure in both]
    if losses:
        return left, _range(losses)
    return left, f"loss not stated; CA@1 {_range(accuracies)}" if accuracies else ""


def _changes(published: Published, figure: Figure) -> tuple[str, str]:
    """Return changes of ASR and of CA@1 from another defense, as words."""
    against = published.defenses[figure.against]
    undefended = figure.against == NO_DEFENSE
    than = "without a defense" if undefended else f"after {against.about or f'`{against.method}`'}"
    asr = [f"{_compared(figure.values[name])} by {ASR[name]}" for name in ASR if name in figure.values]
    left = f"{', '.join(asr)} than {than} ({_attack(published, figure)})" if asr else ""
    change = figure.values.get("ca1_change")
    if change is None:
        return left, ""
    return left, f"{-change:g}" if undefended else f"CA@1 {_compared(change)} than there"


def _compared(change: float) -> str:
    return f"{abs(change):g} points {'lower' if change < 0 else 'higher'}"


def _undefended(published: Published, figure: Figure) -> dict[str, float]:
    """Return CA@1 without a defense by attack, of the same table."""
    return {
        other.attack: other.values["ca1"]
        for other in published.figures()
        if (other.paper, other.setting, other.source) == (figure.paper, figure.setting, figure.source)
        and other.defense == NO_DEFENSE
        and "ca1" in other.values
    }


def _attack(published: Published, figure: Figure) -> str:
    name = published.attacks[figure.attack]
    return escaped(figure.attack.replace("_", " ") if name.method else name.about)


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{round(end, 2):g}" for end in (min(values), max(values))))


def _source(published: Published, figure: Figure) -> str:
    """Return the paper's name and year, the table, and how the figure is known."""
    paper = published.papers[figure.paper]
    name = re.split(r"[:,]", paper.title)[0]
    return escaped(f"{name} {paper.year}, {figure.source}; {KNOWN.get(figure.known, figure.known)}")


def _costs(published: Published) -> list[list[str]]:
    """Return the rows of what papers report that a defense took."""
    rows = [["`--defense`", "model", "data", "time", "memory", "source"], ["---"] * 6]
    for figure in published.figures():
        if "seconds" in figure.values and published.defenses[figure.defense].method in DEFENSES:
            values, setting = figure.values, published.settings[figure.setting]
            what = "pairs" if figure.defense == "cleanclip" else "pictures"
            amount = f"{values['pairs']:,.0f} {what}" if "pairs" in values else ""
            memory = f"{values['megabytes'] / 1000:.1f} GB" if "megabytes" in values else ""
            took = duration(values["seconds"]), memory
            rows.append([f"`{figure.defense}`", setting.model, amount, *took, _source(published, figure)])
    return rows


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cell or 'not stated' for cell in row)} |" for row in rows)
