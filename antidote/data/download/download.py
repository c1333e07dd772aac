"""Download of a table of addresses, in rounds that can be resumed after an interruption.

FOLDER/{identity}/pass1/   list.parquet, and img2dataset's work shards: pictures with captions, address and the SHA-256
                           of the file as sent by the server
FOLDER/{identity}/pass2/   the same for failed addresses that may succeed on a retry
FOLDER/report.json         the last report, written even if too few pictures arrived

FOLDER is data/downloads/{dataset}/{split}. The identity is a hash of the list and of the picture options; a change of
either is a new download.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.disk import check_space, gigabytes
from antidote.base.errors import UserError
from antidote.base.files import write_json
from antidote.base.locks import NoLocks, lock, warn
from antidote.data.download import img2dataset
from antidote.data.download.addresses import Addresses, addresses
from antidote.data.download.arrivals import LOST, REPORT, judge, outcome, report, why
from antidote.data.download.img2dataset import NothingArrives
from antidote.data.download.rounds import Round, begin, rounds
from antidote.data.sources.url_table import UrlTable
from antidote.data.store.sizes import picture_bytes

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("antidote")


def download(
    settings: UrlTable, dataset: str, split: str, folder: Path, processes: int
) -> tuple[dict[str, Any], "pd.DataFrame"]:
    """Download a split, or resume its download.

    Args:
        settings: the dataset's settings.
        dataset: name of the dataset.
        split: name of the split.
        folder: folder of the split's downloads; finished work shards in it are not fetched again.
        processes: number of processes of img2dataset.

    Returns:
        The report, and one row per address: key, url, sha256 (null: failed), failure (null: arrived).

    Raises:
        UserError: no img2dataset, a faulty table, too little disk space, no network, fewer pictures than accepted.
    """
    wanted, name = addresses(settings, split), f"{dataset}/{split}"
    python = img2dataset.interpreter()
    log.info("%s: %d addresses in %d rows", name, len(wanted.list), wanted.rows)
    work = folder / _identity(settings, wanted)
    with _alone(folder):
        _mention_others(folder, work)
        ran = False
        while (part := _next_round(settings, work, wanted, ran)) is not None:
            _check_space(settings, split, part, len(wanted.list), folder)
            try:
                img2dataset.run(python, settings, part, processes, name)
            except NothingArrives:
                found = outcome(work, wanted)
                tried = found[found["failure"] != LOST]
                raise UserError(f"{name}: none of {len(tried)} pictures arrived: {why(tried)}") from None
            ran = True
        found = outcome(work, wanted)
        said = {**report(settings, dataset, split, work, wanted, found), "img2dataset": img2dataset.version(python)}
        write_json(folder / REPORT, said)
    judge(settings, name, said, found, folder)
    return said, found[["key", "url", "sha256", "failure"]]


def _identity(settings: UrlTable, wanted: Addresses) -> str:
    digest = hashlib.sha256(json.dumps(img2dataset.picture_options(settings), sort_keys=True).encode())
    columns = [name for name in ("pair", "url", "sha256") if name in wanted.list]
    for row in wanted.list[columns].itertuples(index=False):
        digest.update("\t".join(row).encode() + b"\n")
    return digest.hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder against a second download."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = lock(folder / ".lock")
    except NoLocks as error:
        warn(error, "a second download at the same time would not be noticed")
        file = contextlib.nullcontext()
    if file is None:
        raise UserError(f"{folder}: another download is at work there; wait for it or stop it")
    with file:
        yield


def _mention_others(folder: Path, work: Path) -> None:
    for other in sorted(path for path in folder.iterdir() if path.is_dir() and path != work):
        size = sum(file.stat().st_size for file in other.rglob("*") if file.is_file())
        log.info("%s: of another table, part or size (%s); delete it when it is not needed", other, gigabytes(size))


def _next_round(settings: UrlTable, work: Path, wanted: Addresses, ran: bool) -> Round | None:
    """Return the round to run: the unfinished round, or a new round for failures that a retry may mend; None: done.

    A download that ended with fewer pictures than accepted gets one more round at each start.
    """
    begun = rounds(work)
    if begun and not begun[-1].done():
        return begun[-1]
    found = outcome(work, wanted)
    todo = wanted.list[found["again"].to_numpy(bool)]
    enough = found["sha256"].notna().mean() >= settings.download.accepted
    limit = settings.download.passes if ran or enough else max(settings.download.passes, len(begun) + 1)
    if todo.empty or len(begun) >= limit:
        return None
    return begin(work / f"pass{len(begun) + 1}", todo, settings.download.shard)


def _check_space(settings: UrlTable, split: str, part: Round, addresses: int, folder: Path) -> None:
    """Check that the free disk space is enough for the rest of this round and for the dataset's shards."""
    got = sum(stats["successes"] for stats in part.finished.values())
    stored = sum((part.folder / f"{number:05d}.tar").stat().st_size for number in part.finished)
    each = stored / got if got else picture_bytes(settings, split)
    left = part.addresses - sum(stats["count"] for stats in part.finished.values())
    advice = "take a `sample` of the table, or make image_size smaller"
    check_space(
        folder, int(each * (left + addresses)), f"what is left of {addresses} pictures, and their shards,", advice
    )
