"""Downloading a table of addresses, in rounds that an interruption does not undo.

FOLDER/{identity}/pass1/   list.parquet, and img2dataset's work shards: a picture, its captions, its address and the
                           SHA-256 of the file that the server sent
FOLDER/{identity}/pass2/   the same for what failed and may yet succeed
FOLDER/report.json         the last report, also where too little has arrived

FOLDER is data/downloads/{dataset}/{split}. The identity is that of the list and of what is done to the pictures: another
one is another download.
"""

import fcntl
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.data import failures, img2dataset
from antidote.data.addresses import Addresses, addresses
from antidote.data.img2dataset import LIST, NothingArrives, Round
from antidote.data.sources.url_table import UrlTable
from antidote.disk import check_space, gigabytes
from antidote.errors import UserError
from antidote.files import whole_file, write_json

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("antidote")

BYTES_PER_PIXEL = 0.4  # of photographs as JPEG of quality 95
ASPECT = {"keep_ratio": 1.4, "keep_ratio_largest": 1 / 1.4, "center_crop": 1.0, "border": 1.0}
ORIGINAL_BYTES = 150_000  # of a picture of the web that is not reduced
LOST = "img2dataset lost it"
REPORT = "report.json"


def download(
    settings: UrlTable, dataset: str, split: str, folder: Path, processes: int
) -> tuple[dict[str, Any], "pd.DataFrame"]:
    """Download a split, or go on with it.

    Args:
        settings: the dataset.
        folder: of the split's downloads; what is finished there is not fetched again.
        processes: how many img2dataset starts.

    Returns:
        The report, and what became of every address: key, url, sha256 (null where it failed), failure (null where not).

    Raises:
        UserError: no img2dataset, a faulty table, too little disk, no network, fewer pictures than accepted.
    """
    python, name = img2dataset.interpreter(), f"{dataset}/{split}"
    wanted = addresses(settings, split)
    log.info("%s: %d addresses in %d rows", name, len(wanted.list), wanted.rows)
    work = folder / _identity(settings, wanted)
    with _alone(folder):
        _mention_others(folder, work)
        ran = False
        while (part := _next_round(settings, work, wanted, ran)) is not None:
            _check_space(settings, part, len(wanted.list), folder)
            try:
                img2dataset.run(python, settings, part, processes, name)
            except NothingArrives:
                outcome = _outcome(work, wanted)
                tried = outcome[outcome["failure"] != LOST]
                raise UserError(f"{name}: none of {len(tried)} pictures arrived: {_why(tried)}") from None
            ran = True
        outcome = _outcome(work, wanted)
        report = _report(settings, dataset, split, work, wanted, outcome)
        report["img2dataset"] = img2dataset.version(python)
        write_json(folder / REPORT, report)
    _judge(settings, name, report, outcome, folder)
    return report, outcome[["key", "url", "sha256", "failure"]]


def _identity(settings: UrlTable, wanted: Addresses) -> str:
    digest = hashlib.sha256(json.dumps(img2dataset.picture_options(settings), sort_keys=True).encode())
    columns = [name for name in ("pair", "url", "sha256") if name in wanted.list]
    for row in wanted.list[columns].itertuples(index=False):
        digest.update("\t".join(row).encode() + b"\n")
    return digest.hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second download out of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another download is at work there; wait for it or stop it") from None
        yield


def _mention_others(folder: Path, work: Path) -> None:
    for other in sorted(path for path in folder.iterdir() if path.is_dir() and path != work):
        size = sum(file.stat().st_size for file in other.rglob("*") if file.is_file())
        log.info("%s: of another table, part or size (%s); delete it when it is not needed", other, gigabytes(size))


def _rounds(work: Path) -> list[Round]:
    """Return the rounds that have begun; what a breakdown has left of a work shard is taken away."""
    import pyarrow.parquet as pq

    rounds = []
    for number in range(1, 1000):
        folder = work / f"pass{number}"
        if not (folder / LIST).exists():
            break
        table = pq.read_metadata(folder / LIST)
        part = Round(folder, table.num_rows, int(table.metadata[b"shards"]))
        for stats in folder.glob("*_stats.json"):
            if not _is_whole(stats):
                stats.unlink()
        part.look()
        rounds.append(part)
    return rounds


def _is_whole(stats: Path) -> bool:
    """Tell whether a work shard is there with all its parts, of which the statistics are written last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stem = stats.name.removesuffix("_stats.json")
    try:
        json.loads(stats.read_text())
        pq.read_metadata(stats.with_name(f"{stem}.parquet"))
        return stats.with_name(f"{stem}.tar").stat().st_size > 0
    except (OSError, ValueError, pa.ArrowException):
        return False


def _next_round(settings: UrlTable, work: Path, wanted: Addresses, ran: bool) -> Round | None:
    """Return the round to work on: the unfinished one, or a new one for what failed and may yet succeed.

    A download that has ended with fewer pictures than accepted gets one more round each time it is started.
    """
    rounds = _rounds(work)
    if rounds and not rounds[-1].done():
        return rounds[-1]
    outcome = _outcome(work, wanted)
    todo = wanted.list[outcome["again"].to_numpy(bool)]
    enough = outcome["sha256"].notna().mean() >= settings.download.accepted
    limit = settings.download.passes if ran or enough else max(settings.download.passes, len(rounds) + 1)
    if todo.empty or len(rounds) >= limit:
        return None
    return _begin(work / f"pass{len(rounds) + 1}", todo, settings.download.shard)


def _begin(folder: Path, todo: "pd.DataFrame", per_shard: int) -> Round:
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = -(-len(todo) // per_shard)
    table = pa.Table.from_pandas(todo, preserve_index=False).replace_schema_metadata({"shards": str(shards)})
    with whole_file(folder / LIST) as temporary:
        pq.write_table(table, temporary)
    return Round(folder, len(todo), shards)


def _outcome(work: Path, wanted: Addresses) -> "pd.DataFrame":
    """Return a row per address, in the order of the list: key, url, sha256, failure, message, again (may be tried)."""
    import pandas as pd

    columns = ["pair", "status", "error_message", "sha256"]
    tables = [
        pd.read_parquet(part.folder / f"{number:05d}.parquet", columns=columns)
        for part in _rounds(work)
        for number in sorted(part.finished)
    ]
    found = pd.concat(tables) if tables else pd.DataFrame(columns=columns, dtype=object)
    found = found.drop_duplicates("pair", keep="last").set_index("pair").reindex(wanted.list["pair"])
    arrived = (found["status"] == "success").to_numpy(bool)
    messages = found["error_message"].fillna(LOST).map(failures.plain).mask(arrived, None)
    known = {message: (failures.kind_of(message), failures.may_pass(message)) for message in messages.dropna().unique()}
    known[LOST] = (LOST, True)
    return pd.DataFrame(
        {
            "key": wanted.list["pair"].to_numpy(),
            "url": wanted.list["url"].to_numpy(),
            "sha256": found["sha256"].where(arrived, None).to_numpy(object),
            "failure": [known[message][0] if isinstance(message, str) else None for message in messages],
            "message": messages.to_numpy(object),
            "again": [isinstance(message, str) and known[message][1] for message in messages],
        }
    )


def _check_space(settings: UrlTable, part: Round, addresses: int, folder: Path) -> None:
    """Compare what is free with what this round, and then the dataset's shards, will take."""
    got = sum(stats["successes"] for stats in part.finished.values())
    stored = sum((part.folder / f"{number:05d}.tar").stat().st_size for number in part.finished)
    size = settings.image_size
    guess = BYTES_PER_PIXEL * size**2 * ASPECT[settings.resize] if size else ORIGINAL_BYTES
    each = stored / got if got else guess
    left = part.addresses - sum(stats["count"] for stats in part.finished.values())
    advice = "take a `sample` of the table, or make image_size smaller"
    check_space(folder, int(each * (left + addresses)), f"what is left of {addresses} pictures, and their shards,", advice)


def _report(
    settings: UrlTable, dataset: str, split: str, work: Path, wanted: Addresses, outcome: "pd.DataFrame"
) -> dict[str, Any]:
    arrived = int(outcome["sha256"].notna().sum())
    shards = [
        {"name": f"{work.name}/{part.folder.name}/{number:05d}.tar", "pairs": stats["successes"]}
        for part in _rounds(work)
        for number, stats in sorted(part.finished.items())
        if stats["successes"]
    ]
    digest = hashlib.sha256("\n".join(outcome["sha256"].fillna("")).encode())
    return {
        "dataset": dataset,
        "split": split,
        "folder": str(work.parent),
        "rows": wanted.rows,
        "unusable": wanted.unusable,
        "addresses": len(outcome),
        "arrived": arrived,
        "share": round(arrived / len(outcome), 4),
        "accepted": settings.download.accepted,
        "failures": _counts(outcome["failure"]),
        "messages": dict(list(_counts(outcome["message"]).items())[:20]),
        "rounds": len(_rounds(work)),
        "pictures": img2dataset.picture_options(settings),
        "pictures_sha256": digest.hexdigest(),
        "shards": shards,
    }


def _counts(values: "pd.Series") -> dict[str, int]:
    found = Counter(values.dropna())
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _why(outcome: "pd.DataFrame") -> str:
    kinds = _counts(outcome["failure"])
    return f"{', '.join(f'{count} x {kind}' for kind, count in kinds.items())}; {failures.advice(kinds)}"


def _judge(settings: UrlTable, name: str, report: dict[str, Any], outcome: "pd.DataFrame", folder: Path) -> None:
    share = f"{report['arrived']} of {report['addresses']} pictures arrived ({report['share']:.1%})"
    failed = outcome[outcome["failure"].notna()]
    if report["share"] < settings.download.accepted or not report["arrived"]:
        raise UserError(
            f"{name}: {share}, download.accepted is {settings.download.accepted:.1%}: {_why(failed)}; all of it is in "
            f"{folder / REPORT}, and what arrived is kept: run again to try once more"
        )
    log.info("%s: %s%s", name, share, f": {_why(failed).rpartition(';')[0]}" if len(failed) else "")
