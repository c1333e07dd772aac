"""The transfer matrix of learned triggers (idea: arXiv 2310.17626): fitted on one model, used against another.

T[s, v]  ASR@1 of a trigger fitted on surrogate s, on victim v poisoned with the trigger (undefended)
U[s, v]  ASR@1 of the same trigger on the clean reference of v, without any poisoning
T - U    effect of the poisoning; a trigger whose success is due to U is an adversarial patch, not a backdoor

A study has one victim; the matrix combines finished studies of several victims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.study.layout import Layout
from antidote.summary.csv_files import read_frame
from antidote.summary.restored import restored
from antidote.summary.tables import spread

COLUMNS_OF_CELLS = ("attack", "defense", "seed", "asr1", "floor")
COLUMNS = ["attack", "method", "surrogate", "victim", "seeds", "T", "U", "T-U", "T_std", "U_std"]


@dataclass(frozen=True)
class Victim:
    """What a study says of triggers against its model.

    Attributes:
        place: folder or file of the study.
        model: name of the study's model.
        cells: columns `attack`, `defense`, `seed`, `asr1`, `floor`; a row per cell and seed.
        attacks: settings of each attack.
    """

    place: Path
    model: str
    cells: pd.DataFrame
    attacks: Mapping[str, Mapping[str, Any]]


def of_run(folder: Path) -> Victim:
    """Return what a finished run says, `results/NAME`.

    Raises:
        UserError: the study has no summary or no clean reference.
    """
    kept = Layout(folder)
    path = kept.path("summary", "cells")
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the study first")
    cells, attacks = read_frame(path, COLUMNS_OF_CELLS), {}
    for attack in dict.fromkeys(cells["attack"]):
        trigger = next(iter(kept.found("trigger", "description", attack=attack)), None)
        attacks[attack] = _settings(trigger) if trigger else {}
    return Victim(folder, _model(folder), cells, attacks)


def of_files(file: Path, leaderboard: Path) -> Victim:
    """Return what a study's results files say; arguments and errors are those of `restored`."""
    done = restored(file, leaderboard)
    attacks = {name: settings.model_dump(mode="json") for name, settings in done.study.attacks.items()}
    return Victim(file, done.study.file.model.name, done.cells[list(COLUMNS_OF_CELLS)], attacks)


def transfer(victims: Iterable[Victim]) -> pd.DataFrame:
    """Return one row per attack, surrogate and victim; rates are fractions, means over seeds.

    `T_std` and `U_std` are standard deviations (n - 1); missing if the study has one seed. A seed counts that has both.

    Raises:
        UserError: no study has a trigger that was fitted on a model, or two have the same attack, surrogate and victim.
    """
    rows: list[dict] = []
    seen: dict[tuple[str, ...], Path] = {}
    places = []
    for victim in victims:
        places.append(str(victim.place))
        for row in _rows(victim):
            key = tuple(row[name] for name in ("attack", "method", "surrogate", "victim"))
            if key in seen:
                raise UserError(
                    f"{victim.place}: {row['attack']}, fitted on {row['surrogate']}, against {row['victim']} is in "
                    f"{seen[key]} too; leave out one of the two studies, or give the attacks other names"
                )
            seen[key] = victim.place
            rows.append(row)
    if not rows:
        raise UserError(f"{', '.join(places)}: no trigger there was fitted on a surrogate")
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(victim: Victim) -> list[dict]:
    rows, cells = [], victim.cells
    for attack, mine in cells[cells["defense"] == "none"].groupby("attack", sort=False):
        settings = victim.attacks.get(attack, {})
        mine = mine.dropna(subset=["asr1", "floor"])
        if "surrogate" not in settings or mine.empty:
            continue
        success, alone = mine["asr1"], mine["floor"]
        surrogate = victim.model if settings["surrogate"] == "clean" else settings["surrogate"]
        facts = {"attack": attack, "method": settings["method"], "surrogate": surrogate, "victim": victim.model}
        means = {"T": success.mean(), "U": alone.mean(), "T-U": success.mean() - alone.mean()}
        rows.append({**facts, "seeds": len(mine), **means, "T_std": success.std(), "U_std": alone.std()})
    return rows


def _model(folder: Path) -> str:
    """Return the name of the study's model, from the card of the clean reference."""
    card = next(iter(Layout(folder).found("clean_model", "card")), None)
    if card is None:
        raise UserError(f"{folder}/clean: holds no clean reference; run the study first")
    try:
        return str(_settings(card)["model"]["name"])
    except (KeyError, TypeError):
        raise UserError(f"{card}: settings.model.name: is missing; run the study again") from None


def _settings(file: Path) -> dict[str, Any]:
    """Return the settings in a card or in a trigger's description."""
    found = read_json(file)
    settings = found.get("settings") if isinstance(found, dict) else None
    if not isinstance(settings, dict):
        raise UserError(f"{file}: settings: is missing; run the study again")
    return settings


def matrix(table: pd.DataFrame) -> str:
    """Return a Markdown table per method: a row per surrogate, a column per victim, T / U in percent, ± over seeds.

    Several attacks of one method that were fitted on one surrogate have a row each.
    """
    parts = []
    for method, mine in table.groupby("method", sort=False):
        same = mine.groupby(["surrogate", "victim"])["attack"].transform("nunique") > 1
        several = mine["surrogate"].isin(mine.loc[same, "surrogate"])
        named = mine["surrogate"] + " (" + mine["attack"] + ")"
        mine = mine.assign(surrogate=mine["surrogate"].where(~several, named))
        victims = list(dict.fromkeys(mine["victim"]))
        lines = [["surrogate", *victims], ["---", *["---:"] * len(victims)]]
        for surrogate, row in mine.groupby("surrogate", sort=False):
            cells = {r.victim: f"{spread(r.T, r.T_std)} / {spread(r.U, r.U_std)}" for r in row.itertuples()}
            lines.append([surrogate, *(cells.get(victim, "") for victim in victims)])
        parts.append(f"### {method}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"
