"""Published figures, from `data/published.yaml`: what a paper or a public log reports, with its source.

Rates are in percent. They are shown beside a study only if the study's track and model are those of the paper's
setting, in a column of their own.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from antidote.base.errors import nearest
from antidote.base.settings import Settings, read_mapping
from antidote.study.layout import PUBLISHED
from antidote.summary.plan import AttackFacts, SummarySettings
from antidote.summary.tables import percent, shown

CLEAN = "clean"  # the clean reference, in the place of an attack
RATES = ("asr1", "ca1")  # figures that a study's report shows beside its own
PERCENT = (0.0, 100.0)
POINTS = (-100.0, 100.0)  # a change from the defense in `against`
AMOUNT = (0.0, math.inf)
CHANGES = {"asr1_change": POINTS, "asr10_change": POINTS, "ca1_change": POINTS}
# Range of each figure. Rank: of the first picture that is aimed at, from 1. BLEU as its paper gives it, of 100.
RANGES = {
    **dict.fromkeys(("ca1", "asr1", "asr10", "pa", "delivered", "worst"), PERCENT),
    "area": (0.0, 1.0),
    **CHANGES,
    **dict.fromkeys(("asr_captions", "bleu", "asr_retrieval", "rank_ratio"), PERCENT),
    **dict.fromkeys(("hit1", "hit5", "hit10", "asr_g"), PERCENT),
    "min_rank": (1.0, math.inf),
    **dict.fromkeys(("seconds", "megabytes", "pairs"), AMOUNT),
}
Known = Literal["paper", "code", "log", "figure", "second hand", "unchecked"]


def _known_figure(name: str) -> str:
    if name not in RANGES:
        raise ValueError(f"unknown figure {name!r}{nearest(name, RANGES)}")
    return name


FigureName = Annotated[str, AfterValidator(_known_figure)]


class Paper(Settings):
    """A paper or a public log."""

    title: str
    year: int = Field(ge=2010, le=2100)
    venue: str
    url: str

    @property
    def citation(self) -> str:
        return f"{self.title} ({self.venue} {self.year})"


class Setting(Settings):
    """What figures were measured on."""

    model: str
    data: str = Field(description="pre-training or poisoned data, with the number of poisoned pairs")
    defender: str = Field("", description="the defender's data")
    evaluation: str
    track: str = Field("", description="name and version of the equal track, `paper 1`; empty for none")


class Name(Settings):
    """An attack or a defense as a table names it."""

    method: str = Field("", description="name in the registry; empty for a method that the project does not have")
    settings: dict[str, str] = Field({}, description="settings of the entry that are needed for equality")
    about: str = ""


class Table(Settings):
    """Figures of one source: rows of attack, defense and one value per figure; null where none is given."""

    paper: str
    setting: str
    source: str = Field(description="table, figure or file")
    known: Known = Field(
        description="read in the paper, in code, in a log, off a figure; second hand; unchecked: from memory"
    )
    figures: list[FigureName] = Field(min_length=1)
    against: str = Field("", description="defense that changes count from; `none`: from the undefended model")
    overview: bool = Field(False, description="a main table, which docs/is-my-clip-backdoored.md sums up")
    rows: list[list[str | float | None]] = Field(min_length=1)


class Figure(Settings):
    """One row of a table."""

    paper: str
    setting: str
    source: str
    known: Known
    against: str = ""
    overview: bool = False
    attack: str
    defense: str
    values: dict[str, float]


class Published(Settings):
    """The whole of data/published.yaml."""

    papers: dict[str, Paper]
    settings: dict[str, Setting]
    attacks: dict[str, Name]
    defenses: dict[str, Name]
    tables: list[Table]

    @model_validator(mode="after")
    def _consistent(self) -> Published:
        for kind, names in (("attacks", self.attacks), ("defenses", self.defenses)):
            for name, one in names.items():
                if not one.method and not one.about:
                    raise ValueError(f"{kind}.{name}: a method that the project does not have needs `about`")
        for table in self.tables:
            changes = any(name in CHANGES for name in table.figures)
            if changes != bool(table.against) or (changes and table.against not in self.defenses):
                where = f"tables: {table.paper}, {table.source}"
                raise ValueError(f"{where}: against: should name a defense for changes, and nothing else")
        seen = set()
        for figure in self.figures():
            where = f"tables: {figure.paper}, {figure.source}, {figure.attack}, {figure.defense}"
            for key, name, known in (
                ("paper", figure.paper, self.papers),
                ("setting", figure.setting, self.settings),
                ("attack", figure.attack, self.attacks),
                ("defense", figure.defense, self.defenses),
            ):
                if name not in known:
                    raise ValueError(f"{where}: unknown {key} {name!r}")
            for name, value in figure.values.items():
                low, high = RANGES[name]
                if not low <= value <= high:
                    raise ValueError(f"{where}: {name}: {value:g} is out of range")
                key = (figure.paper, figure.setting, figure.source, figure.attack, figure.defense, name)
                if key in seen:
                    raise ValueError(f"{where}: {name} is given twice")
                seen.add(key)
        return self

    def figures(self) -> list[Figure]:
        """Return every row of every table.

        Raises:
            ValueError: a row has not one value per figure.
        """
        found = []
        for table in self.tables:
            facts = table.model_dump(include={"paper", "setting", "source", "known", "against", "overview"})
            for row in table.rows:
                if len(row) != 2 + len(table.figures):
                    raise ValueError(
                        f"tables: {table.paper}, {table.source}: {row} needs {2 + len(table.figures)} parts"
                    )
                given = zip(table.figures, row[2:], strict=True)
                values = {name: value for name, value in given if value is not None}
                found.append(Figure(**facts, attack=row[0], defense=row[1], values=values))
        return found


@cache
def read_published(path: Path = PUBLISHED) -> Published:
    """Return the published figures.

    Raises:
        UserError: the file is not valid; one line.
    """
    return Published.read(read_mapping(str(path)), path.name)


def beside(plan: SummarySettings, table: pd.DataFrame) -> list[dict[str, str]]:
    """Return a row per published figure of the plan's track and model, with the study's own figures of that cell.

    Rates are in percent; a cell that was not run is empty. A swept defense has the setting that the tables show.

    Args:
        table: one row per attack and defense, as `tables.summarise` returns it.
    """
    if not plan.track:
        return []
    published, rows = read_published(), []
    cells = {(row["attack"], row["defense"]): row for _, row in shown(table).iterrows()}
    methods = {defense.sweep or defense.name: defense.method for defense in plan.defenses}
    for figure in published.figures():
        setting = published.settings[figure.setting]
        if setting.track != plan.track or setting.model != plan.model or not figure.values.keys() & set(RATES):
            continue
        attack, defense = published.attacks[figure.attack], published.defenses[figure.defense]
        entries = [facts.name for facts in plan.attacks if facts.method == attack.method and _equal(attack, facts)]
        if figure.attack == CLEAN:
            entries = [CLEAN]
        ours = [name for name, method in methods.items() if method == defense.method]
        for cell in [(a, d) for a in entries for d in ours] or [(figure.attack, figure.defense)]:
            mine = cells.get(cell)
            rates = {f: "" if mine is None else percent(mine[f"{f}_mean"]) for f in RATES}
            theirs = {f: f"{figure.values[f]:g}" if f in figure.values else "" for f in RATES}
            source = f"{published.papers[figure.paper].title}, {figure.source}; {figure.known}"
            rows.append({"attack": cell[0], "defense": cell[1], "ours": rates, "theirs": theirs, "source": source})
    return sorted(rows, key=lambda row: (row["attack"], row["defense"]))


def _equal(name: Name, facts: AttackFacts) -> bool:
    return all(facts.settings.get(key) == value for key, value in name.settings.items())
