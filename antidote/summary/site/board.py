"""The leaderboard: results files by track, one row per cell, each with its loss against the undefended cell."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from antidote.base.errors import UserError
from antidote.base.registry import ATTACKS, DEFENSES
from antidote.study.tracks import Track, TrackSettings, tracks
from antidote.summary.exchange import Figure, Result, place, read_result
from antidote.summary.unchanged import other_experiment
from antidote.summary.verdicts import ENOUGH

MEASURED, REPORTED = "measured", "reported"
UNDEFENDED, CONTROL = "none", "oracle"
SCHEMA = "schema.json"  # beside the folders of the tracks


@dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        file: the results file, relative to the folder of all.
        undefended: the cell without a defense that was measured beside this one; None if there is no such file.
    """

    result: Result
    file: str
    undefended: Result | None = None

    def figure(self, name: str) -> Figure | None:
        """Return a figure; None if the cell does not have it."""
        return self.result.figures.get(name)

    @property
    def loss(self) -> float | None:
        """CA@1 of the undefended cell minus CA@1 of this one, a fraction; None without either.

        A mean over the seeds that both have; of figures without values by seed, the difference of the means.
        """
        mine = self.figure("ca1")
        start = self.undefended.figures.get("ca1") if self.undefended else None
        if not mine or not start:
            return None
        if not (mine.seeds and start.seeds):
            return start.mean - mine.mean
        gaps = [start.seeds[seed] - value for seed, value in mine.seeds.items() if seed in start.seeds]
        return statistics.fmean(gaps) if gaps else None

    @property
    def seeds(self) -> int | None:
        """Number of seeds behind the cell's figures; None if a reported result gives none."""
        return max((len(figure.seeds) for figure in self.result.figures.values()), default=0) or None

    @property
    def unreliable(self) -> str:
        """Why the cell decides nothing; empty for a reliable one.

        A dispute, what the file says, or too few seeds for a model of which the track states no noise floor now.
        """
        one = self.result
        track = tracks()[one.track.name]
        floors = track.noise if track.version == one.track.version else {}
        reasons = [f"disputed: {one.disputed}" if one.disputed else "", one.unreliable]
        if one.status == MEASURED and (self.seeds or 0) < ENOUGH and one.model not in floors:
            reasons.append(f"fewer than {ENOUGH} seeds, and the track states no noise floor of the model")
        return "; ".join(filter(None, reasons))

    @property
    def exactness(self) -> str:
        """`reconstruction` if the attack or the defense is one, otherwise `exact`."""
        either = self.result.attack.reconstruction or self.result.defense.reconstruction
        return "reconstruction" if either else "exact"


@dataclass
class Board:
    """The cells of one version of a track.

    Attributes:
        recipe: the track as data/tracks.yaml has it; None if that has another version.
    """

    track: TrackSettings
    recipe: Track | None
    measured: list[Row] = field(default_factory=list)
    reported: list[Row] = field(default_factory=list)

    @property
    def page(self) -> str:
        return f"{self.track.name}-{self.track.version}"

    @property
    def rows(self) -> list[Row]:
        return [*self.measured, *self.reported]


def read_boards(folder: Path) -> list[Board]:
    """Return a board per track, in the order of data/tracks.yaml; tracks without results have empty boards.

    Args:
        folder: holds `{track}-{version}/{study or source}/*.json`.

    Raises:
        UserError: there is no such folder; a file is not valid, names a track that does not exist, or lies elsewhere
            than its track, its study or source and its cell say.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it should hold the results files of the tracks")
    known = tracks()
    boards = {(name, track.version): Board(_track(name, track.version), track) for name, track in known.items()}
    paths = sorted(path for path in folder.rglob("*.json") if path != folder / SCHEMA)
    results = {path: read_result(path) for path in paths}
    starts = {_setting(result): result for result in results.values() if result.defense.method == UNDEFENDED}
    for path, result in results.items():
        name, version = result.track.name, result.track.version
        if name not in known:
            raise UserError(f"{path}: track.name: unknown track {name!r}; known: {', '.join(known)}")
        if path != (own := folder / place(result)):
            mend = "remove one of the two" if own in results else "move it there"
            raise UserError(f"{path}: holds the cell of {own}; {mend}")
        board = boards.setdefault((name, version), Board(_track(name, version), None))
        row = Row(result, path.relative_to(folder).as_posix(), _undefended(result, starts))
        (board.measured if result.status == MEASURED else board.reported).append(row)
    for board in boards.values():
        board.measured.sort(key=_order)
        board.reported.sort(key=_order)
    order = list(known)
    return sorted(boards.values(), key=lambda board: (order.index(board.track.name), -board.track.version))


def _track(name: str, version: int) -> TrackSettings:
    return TrackSettings(name=name, version=version)


def _setting(result: Result) -> tuple[str, ...]:
    """Return what two cells have in common that differ in the defense alone, without settings."""
    own = (result.model, result.target, result.evaluation, result.source.title, result.status)
    return (str(result.track), *own, result.attack.name, result.attack.method)


def _undefended(result: Result, starts: Mapping[tuple[str, ...], Result]) -> Result | None:
    """Return the undefended cell of the same attack and poisoning; None if there is none.

    Args:
        starts: undefended cells by `_setting`.
    """
    start = starts.get(_setting(result))
    if start is None or other_experiment(result.attack.settings, start.attack.settings):
        return None
    return None if other_experiment(result.poisoning, start.poisoning) else start


def _order(row: Row) -> tuple:
    """Sort by attack, in the order of the registry, then by ASR@1, the undefended cell first."""
    result, asr = row.result, row.figure("asr1")
    attack, defense = _place(result.attack.method, ATTACKS), _place(result.defense.method, DEFENSES)
    undefended = result.defense.method != UNDEFENDED
    return (attack, result.attack.name, undefended, asr.mean if asr else 2, defense, result.defense.name, row.file)


def _place(name: str, table: dict[str, str]) -> int:
    return [*table, name].index(name)
