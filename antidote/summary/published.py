"""Published figures, from `data/published.yaml`: what a paper or a public log reports, with its source.

Figures of papers are in percent. They are shown beside a study only if the study's track and model are those of the
paper's setting, in a column of their own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field, model_validator

from antidote.base.settings import Settings, read_mapping
from antidote.study.layout import PUBLISHED
from antidote.summary.plan import AttackFacts, SummarySettings
from antidote.summary.tables import percent, shown

CLEAN = "clean"  # the clean reference, in the place of an attack
FRACTIONS = ("area",)
Known = Literal["paper", "code", "log", "figure", "second hand", "unchecked"]


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
    figures: list[Literal["ca1", "asr1", "asr10", "pa", "delivered", "worst", "area"]] = Field(min_length=1)
    rows: list[list[str | float | None]] = Field(min_length=1)


class Figure(Settings):
    """One row of a table."""

    paper: str
    setting: str
    source: str
    known: Known
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
                if not 0 <= value <= (1 if name in FRACTIONS else 100):
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
            facts = table.model_dump(include={"paper", "setting", "source", "known"})
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
        if setting.track != plan.track or setting.model != plan.model:
            continue
        attack, defense = published.attacks[figure.attack], published.defenses[figure.defense]
        entries = [facts.name for facts in plan.attacks if facts.method == attack.method and _equal(attack, facts)]
        if figure.attack == CLEAN:
            entries = [CLEAN]
        ours = [name for name, method in methods.items() if method == defense.method]
        for cell in [(a, d) for a in entries for d in ours] or [(figure.attack, figure.defense)]:
            mine = cells.get(cell)
            rates = {f: "" if mine is None else percent(mine[f"{f}_mean"]) for f in ("asr1", "ca1")}
            theirs = {f: f"{figure.values[f]:g}" if f in figure.values else "" for f in ("asr1", "ca1")}
            source = f"{published.papers[figure.paper].title}, {figure.source}; {figure.known}"
            rows.append({"attack": cell[0], "defense": cell[1], "ours": rates, "theirs": theirs, "source": source})
    return sorted(rows, key=lambda row: (row["attack"], row["defense"]))


def _equal(name: Name, facts: AttackFacts) -> bool:
    return all(facts.settings.get(key) == value for key, value in name.settings.items())
