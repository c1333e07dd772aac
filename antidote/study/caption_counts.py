"""Checks before a run that a study has enough captions for its pools and attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.data.download.addresses import addresses
from antidote.data.pools import Pool
from antidote.data.words.names import mentioning

if TYPE_CHECKING:
    from antidote.attacks.contract import Needed
    from antidote.data.sources.url_table import UrlTable


def check_captions(study: Any) -> None:
    """Check that `target_pairs` guarantees the captions that each attack requires.

    The captions of a dataset with classes are made from the class names, so every pool of such a dataset contains
    them. The training pool is large and is assumed to contain them, too.

    Raises:
        UserError: one line that names the attack, the word, the guaranteed count and the needed count.
    """
    for name, settings in study.attacks.items():
        for needed in settings.needs(study.file.target, study.classes):
            there = {pool: found for pool in needed.pools if (found := study.file.pools.pools().get(pool)) is not None}
            absent = [pool for pool in needed.pools if pool not in there]
            if absent:
                raise UserError(
                    f"{study.where}: pools.{absent[0]}: is missing; attacks.{name} looks there for captions that name "
                    f"{needed.word!r}"
                )
            if "training" in there or any(study.sources[study.file.pools.place(p)[0]].classes for p in there.values()):
                continue
            guaranteed = sum(pool.words(study.file.target).get(needed.word, 0) for pool in there.values())
            if guaranteed < needed.captions:
                raise UserError(_unguaranteed(study, name, needed, guaranteed))


def _unguaranteed(study: Any, attack: str, needed: Needed, guaranteed: int) -> str:
    pools = " or ".join(f"pools.{pool}" for pool in needed.pools)
    captions = f"{needed.captions} caption{'s' * (needed.captions > 1)}"
    return (
        f"{study.where}: attacks.{attack}: needs {captions} of {pools} that name {needed.word!r}, and target_pairs "
        f"guarantees {guaranteed}; set pools.{needed.pools[0]}.target_pairs to {{{needed.word}: {needed.captions}}}"
    )


def asked_of_tables(study: Any, places: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Count, before any download, the captions in URL tables that the pools will ask for.

    Args:
        places: datasets and splits that are still to be downloaded.

    Returns:
        A line for each word and split, and a line for each word of which a table has too few captions. A table that
        is missing or unreadable is skipped: `preflight.missing` and the download report such a table.
    """
    lines, faults = [], []
    for dataset, split in places:
        asked = _asked(study, (dataset, split))
        counts = _counted(study.sources[dataset], split, list(asked)) if asked else {}
        for word, count in counts.items():
            line = f"{dataset}/{split}: pools ask for {asked[word]:,} captions with {word!r}, the table has {count:,}"
            if count < asked[word]:
                faults.append(f"{line}; lower target_pairs")
            else:
                lines.append(f"{line}; {asked[word] / count:.0%} of them have to arrive")
    return lines, faults


def _asked(study: Any, place: tuple[str, str]) -> dict[str, int]:
    """Return the number of captions that all pools of a split together ask for, by word."""
    asked: dict[str, int] = {}
    for pool in study.file.pools.pools().values():
        if isinstance(pool, Pool) and study.file.pools.place(pool) == place:
            for word, pairs in pool.words(study.file.target).items():
                asked[word] = asked.get(word, 0) + pairs
    return asked


def _counted(source: UrlTable, split: str, words: list[str]) -> dict[str, int]:
    try:
        captions = addresses(source, split).list["caption"]
    except UserError:
        return {}
    return {word: int(mentioning(captions, word).sum()) for word in words}
