"""Headlines of the works on the project's list, beside what finished studies measure of them: `docs/claims.md`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA
from antidote.base.fingerprint import ROOT
from antidote.base.registry import method
from antidote.base.settings import Settings, read_mapping
from antidote.study.layout import NO_DEFENSE
from antidote.summary.accuracy import one_setting
from antidote.summary.finished import Finished
from antidote.summary.further import further_figures, study_files
from antidote.summary.page import duration
from antidote.summary.relations import parse
from antidote.summary.tables import CONTROL, losses_by_defense, percent
from antidote.summary.text import RECONSTRUCTION, escaped
from antidote.summary.verdicts import (
    FAILS,
    HOLDS,
    UNDECIDED,
    UNMEASURED,
    UNTESTABLE,
    Verdict,
    judge,
)

CLAIMS = DATA / "claims.yaml"
# The verdict of several relations is the first that occurs.
WORST_FIRST = (FAILS, UNMEASURED, UNTESTABLE, UNDECIDED, HOLDS)


class Claim(Settings):
    """One headline of data/claims.yaml."""

    paper: str = Field(description="key of data/published.yaml")
    sentence: str
    value: str = Field(description="the paper's figures, in percent")
    relations: list[str] = Field(min_length=1, description="relations of figures, see antidote.summary.relations")
    at: Literal["matched", "as_set"] = Field("matched", description="whether defenses are compared at matched accuracy")
    gated: bool = Field(True, description="only attacks that pass the gate count")
    ours: str = Field("", description="what in the test is this project's choice")


def read_claims(papers: dict[str, str], path: Path = CLAIMS, studies: Sequence[Path] = ()) -> dict[str, Claim]:
    """Return the claims by name; the relations are checked.

    Args:
        papers: titles by key.
        studies: study files whose evaluation sets a claim may name, beside those of the checkout's studies.

    Raises:
        UserError: the file is not valid, or a claim names an unknown paper, figure or method; names the claim.
    """
    found, further = {}, further_figures([*study_files(ROOT), *studies])
    for name, values in read_mapping(str(path)).items():
        if not isinstance(values, dict):
            raise UserError(f"{path.name}: {name}: should hold keys and values, not {values!r}")
        claim = Claim.read(values, f"{path.name}: {name}")
        if claim.paper not in papers:
            raise UserError(f"{path.name}: {name}: paper: unknown paper {claim.paper!r}{nearest(claim.paper, papers)}")
        for relation in claim.relations:
            parse(relation, f"{path.name}: {name}: relations", further)
        found[name] = claim
    return found


def page(claims: dict[str, Claim], papers: dict[str, str], studies: list[Finished]) -> str:
    """Return the generated part of docs/claims.md: which defense to use, verdicts by work, one table per work."""
    works = dict.fromkeys(claim.paper for claim in claims.values())
    parts = [_choices(studies), _glance(claims, papers, studies)]
    for paper in works:
        rows = [["claim", "paper", "study", "ours", "verdict"], ["---"] * 5]
        for claim in (claim for claim in claims.values() if claim.paper == paper):
            rows += _rows(claim, studies)
        parts.append(f"### {papers[paper]}\n\n{_markdown(rows)}")
    return "\n\n".join(parts) + "\n"


def _glance(claims: dict[str, Claim], papers: dict[str, str], studies: list[Finished]) -> str:
    """Return a table of the number of verdicts by work: one per study that measured a claim, or per track without."""
    words = tuple(reversed(WORST_FIRST))
    rows = [["work", *words], ["---", *["---:"] * len(words)]]
    for paper in dict.fromkeys(claim.paper for claim in claims.values()):
        counts = dict.fromkeys(words, 0)
        for claim in (claim for claim in claims.values() if claim.paper == paper):
            measured = _measured(claim, studies)
            for row in measured:
                counts[row.word] += 1
            counts[UNMEASURED] += len(_unmeasured(studies, measured)) if studies else 1
        mark = f" {RECONSTRUCTION}" if any(_rebuilt(one) for one in claims.values() if one.paper == paper) else ""
        rows.append([papers[paper] + mark, *(str(count or "") for count in counts.values())])
    return (
        "### Verdicts by work\n\nA claim counts once per study that measured it (once for studies with the same "
        "figures), and as not measured once per track on which no study did; studies may share models. "
        f"{RECONSTRUCTION}: with a reconstruction.\n\n"
        f"{_markdown(rows)}"
    )


def verdict(claim: Claim, done: Finished) -> tuple[str, list[Verdict]]:
    """Return the verdict of a claim in one study, and those of its relations."""
    relations = [parse(text, claim.sentence) for text in claim.relations]
    found = [judge(relation, done, claim.at == "matched", claim.gated) for relation in relations]
    return next(word for word in WORST_FIRST if any(one.word == word for one in found)), found


@dataclass(frozen=True)
class _Row:
    """What studies of one track measured of a claim; studies that share their models have the same `cells`."""

    cells: frozenset[tuple]
    track: str
    seeds: str
    figures: str
    word: str
    reason: str


def _measured(claim: Claim, studies: list[Finished]) -> dict[_Row, list[str]]:
    """Return the names of the studies that measured a claim, by what they measured."""
    rows: dict[_Row, list[str]] = {}
    for done in studies:
        word, found = verdict(claim, done)
        if word == UNMEASURED:
            continue
        reason = "; ".join(dict.fromkeys(one.reason for one in found if one.reason and one.word == word))
        seeds = min(one.seeds for one in found if one.word != UNMEASURED)
        row = _Row(_cells(claim, done), done.track, _seeds(done, seeds), "; ".join(map(_figures, found)), word, reason)
        rows.setdefault(row, []).append(done.study.name)
    return rows


def _cells(claim: Claim, done: Finished) -> frozenset[tuple]:
    """Return the figures of all cells that a claim is about, the undefended ones among them, unrounded."""
    terms = [term for text in claim.relations for term in parse(text, claim.sentence).terms if term.figure]
    attacks, defenses = {term.word("attack") for term in terms}, {NO_DEFENSE, *(term.defense for term in terms)}
    return frozenset(
        (attack, defense, *figures)
        for attack, one in done.study.attacks.items()
        for defense, other in done.study.defenses.items()
        if attacks & {one.method, "*", None} and other.method in defenses
        for figures in _figures_by_seed(done, [attack], [defense])
    )


def _figures_by_seed(done: Finished, attacks: Sequence[str], defenses: Sequence[str]) -> list[tuple]:
    """Return seed, ASR@1 and CA@1 of the scored cells of some entries."""
    mine = done.cells[done.cells["attack"].isin(attacks) & done.cells["defense"].isin(defenses)]
    return list(mine[mine["ca1"].notna()][["seed", "asr1", "ca1"]].fillna(-1).itertuples(index=False, name=None))


def _rows(claim: Claim, studies: list[Finished]) -> list[list[str]]:
    """Return a row per study that measured the claim, and one of the tracks on which none did."""
    mark = f" {RECONSTRUCTION}" if _rebuilt(claim) else ""
    sentence = claim.sentence + mark + (f" (Ours: {claim.ours}.)" if claim.ours else "")
    measured = _measured(claim, studies)
    rows = [
        [
            f"{row.track}, {_joined(names)}, {row.seeds}",
            row.figures,
            f"**{row.word}**" + (f": {row.reason}" if row.reason else ""),
        ]
        for row, names in measured.items()
    ]
    missing = ", ".join(_unmeasured(studies, measured))
    if not rows:
        judged = [(done.study.name, verdict(claim, done)[1]) for done in studies]
        firsts = [(name, [one.reason for one in found if one.word == UNMEASURED][:1]) for name, found in judged]
        reasons = "; ".join(f"{name}: {reason}" for name, [reason] in firsts)
        rows.append([missing, "", UNMEASURED + (f" ({reasons})" if reasons else "")])
    elif missing:
        rows.append([missing, "", UNMEASURED])
    return [[sentence if i == 0 else "", claim.value if i == 0 else "", *row] for i, row in enumerate(rows)]


def _joined(names: Sequence[str]) -> str:
    """Return names as text: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _unmeasured(studies: list[Finished], measured: Iterable[_Row]) -> list[str]:
    """Return the tracks on which no study measured a claim."""
    known = {row.track for row in measured}
    return [track for track in dict.fromkeys(done.track for done in studies) if track not in known]


def _rebuilt(claim: Claim) -> bool:
    """Return whether a claim is about a defense of which the paper leaves parts open."""
    terms = [term for text in claim.relations for term in parse(text, claim.sentence).terms]
    return any(getattr(method("defense", term.defense), "reconstruction", False) for term in terms if term.figure)


def _figures(found: Verdict) -> str:
    """Return the sides of a relation, left minus right with half of its interval, and the losses of accuracy there.

    Of a relation that was not measured, beside one that does not hold, the reason. More decimals than usual tell a
    difference from half of its interval: which of the two is larger is the verdict.
    """
    if found.difference is None:
        return found.reason
    decimals, half = found.decimals, ""
    if found.half is not None:
        texts = {n: (f"{abs(found.difference):.{n}f}", f"{found.half:.{n}f}") for n in range(decimals, decimals + 4)}
        decimals = next((n for n, (difference, half) in texts.items() if difference != half), decimals)
        half = f" ± {texts[decimals][1]}"
    ends = dict.fromkeys(f"{end:.1f}" for end in found.losses or ())
    between = f", losing {' to '.join(ends)}" if ends else ""
    between += f" ({', '.join(found.more)}: more)" if found.more else ""
    return f"{', '.join(found.sides)}: {found.difference:+.{decimals}f}{half}{between}"


def _choices(studies: list[Finished]) -> str:
    """Return a table of all defenses by access: what they need, leave, cost, and how sure the figures are."""
    head = "### Which defense to use\n\n"
    if not studies:
        return head + "No study of a track was given."
    rows = [["study", "access", "defense", "ASR@1, worst", "ASR@1, mean", "CA@1 loss, worst", "time", "how sure"]]
    rows.append(["---"] * 3 + ["---:"] * 4 + ["---"])
    same: dict[tuple, tuple[list[str], list[str]]] = {}
    for done in studies:
        attacks = list(done.study.attacks)
        for entry, *_, row in sorted(_defenses(done), key=lambda row: row[1:3]):
            cells = frozenset(_figures_by_seed(done, attacks, [entry, NO_DEFENSE]))
            same.setdefault((done.track, entry, cells, *row), ([], row))[0].append(done.study.name)
    rows += [[f"{key[0]}, {_joined(names)}", *row] for key, (names, row) in same.items()]
    return (
        f"{head}Worst and mean over the attacks that pass the gate, of a swept defense at one setting: the strongest "
        "within the accuracy budget on all of them. By access, the lowest worst ASR@1 first; a defense outside the "
        "budget comes last. ±: largest standard deviation over seeds, of ASR@1 and CA@1. "
        f"{RECONSTRUCTION} reconstruction.\n\n{_markdown(rows)}"
    )


def _defenses(done: Finished) -> list[tuple[str, str, tuple[bool, float], list[str]]]:
    """Return entry, access, order within the access, and the row of each defense that was run."""
    table = done.table[done.table["gate"] == "passed"]
    attacks = table["attack"].drop_duplicates()
    sweeps: dict[str, list[str]] = {}
    for name in done.study.defenses:
        sweeps.setdefault(done.swept.get(name) or name, []).append(name)
    rows = []
    for defense, entries in sweeps.items():
        entry = one_setting(done, entries, attacks)
        mine = table[(table["defense"] == entry) & (table["access"] != CONTROL)]
        measured = mine[mine["asr1_mean"].notna() & mine["ca1_mean"].notna()]
        if measured.empty or defense == NO_DEFENSE:
            continue
        first = measured.iloc[0]
        label = ", ".join(filter(None, [done.study.defenses[entry].label or defense, first["setting"]]))
        asr = measured["asr1_mean"]
        lost = max(losses_by_defense(done.cells, attack)[entry] for attack in measured["attack"])
        beyond = bool((measured["within"] != "yes").any())
        row = [
            first["access"],
            escaped(label) + (f" {RECONSTRUCTION}" if first["reconstruction"] == "yes" else ""),
            f"{percent(asr.max())} ({measured.loc[asr.idxmax(), 'attack']})",
            percent(asr.mean()),
            percent(lost) + (" (outside the budget)" if beyond else ""),
            _seconds(done, measured),
            _sure(done, measured),
        ]
        rows.append((entry, first["access"], (beyond, float(asr.max())), row))
    return rows


def _seconds(done: Finished, measured: pd.DataFrame) -> str:
    """Return the mean time of the defense in the measured cells."""
    costs = done.costs[done.costs["stage"] == "defend"].merge(measured[["attack", "defense"]])
    return "" if costs.empty else duration(pd.to_numeric(costs["seconds"]).mean())


def _sure(done: Finished, measured: pd.DataFrame) -> str:
    """Return number of attacks and seeds, and the largest spreads over seeds; for one seed, the noise floor."""
    count = int(measured[["asr1_n", "ca1_n"]].to_numpy().min())
    words = [f"{len(measured)} attack{'s' if len(measured) > 1 else ''}", _seeds(done, count)]
    asr, ca = measured["asr1_std"].max(), measured["ca1_std"].max()
    floor = done.noise and done.noise.figures.get("asr1")
    if not pd.isna(asr):
        return ", ".join([*words, f"± {percent(asr)} (CA@1 ± {percent(ca)})"])
    if floor is None:
        return ", ".join([*words, "spread unknown"])
    return ", ".join([*words, f"noise floor of ASR@1 {floor:.1f}"])


def _seeds(done: Finished, count: int) -> str:
    """Return on how many seeds a figure stands, and on how many it should."""
    planned = len(done.study.file.seeds)
    return (f"{count} of " if count < planned else "") + f"{planned} seed{'s' if planned > 1 else ''}"


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
