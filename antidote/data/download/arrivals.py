"""Result of a download: the state of every address, the report, and the check of the share that arrived."""

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antidote.base.errors import UserError
from antidote.data.download import failures
from antidote.data.download.addresses import Addresses
from antidote.data.download.img2dataset import picture_options
from antidote.data.download.rounds import rounds
from antidote.data.sources.url_table import UrlTable

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("antidote")

LOST = "img2dataset lost it"
REPORT = "report.json"


def outcome(work: Path, wanted: Addresses) -> "pd.DataFrame":
    """Return one row per address, in the order of the list.

    Args:
        work: the folder of the rounds.
        wanted: the addresses.

    Returns:
        Columns key, url, sha256 (None: failed), failure (kind, None: arrived), message, again (a retry may succeed).
    """
    import pandas as pd

    columns = ["pair", "status", "error_message", "sha256"]
    tables = [
        pd.read_parquet(part.folder / f"{number:05d}.parquet", columns=columns)
        for part in rounds(work)
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


def report(
    settings: UrlTable, dataset: str, split: str, work: Path, wanted: Addresses, found: "pd.DataFrame"
) -> dict[str, Any]:
    """Return the content of `download.json`; equal pictures give an equal report.

    Args:
        settings: the dataset's settings.
        dataset: name of the dataset.
        split: name of the split.
        work: the folder of the rounds.
        wanted: the addresses.
        found: the table returned by `outcome`.
    """
    arrived = int(found["sha256"].notna().sum())
    shards = [
        {"name": f"{work.name}/{part.folder.name}/{number:05d}.tar", "pairs": stats["successes"]}
        for part in rounds(work)
        for number, stats in sorted(part.finished.items())
        if stats["successes"]
    ]
    digest = hashlib.sha256("\n".join(found["sha256"].fillna("")).encode())
    return {
        "dataset": dataset,
        "split": split,
        "folder": str(work.parent),
        "rows": wanted.rows,
        "unusable": wanted.unusable,
        "addresses": len(found),
        "arrived": arrived,
        "share": round(arrived / len(found), 4),
        "accepted": settings.download.accepted,
        "failures": _counts(found["failure"]),
        "messages": dict(list(_counts(found["message"]).items())[:20]),
        "rounds": len(rounds(work)),
        "pictures": picture_options(settings),
        "pictures_sha256": digest.hexdigest(),
        "shards": shards,
    }


def _counts(values: "pd.Series") -> dict[str, int]:
    found = Counter(values.dropna())
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def why(found: "pd.DataFrame") -> str:
    """Return a text with the counts of all kinds of failure, and advice about the most frequent kinds."""
    kinds = _counts(found["failure"])
    return f"{', '.join(f'{count} x {kind}' for kind, count in kinds.items())}; {failures.advice(kinds)}"


def judge(settings: UrlTable, name: str, report: dict[str, Any], found: "pd.DataFrame", folder: Path) -> None:
    """Log the share of pictures that arrived.

    Raises:
        UserError: the share is lower than accepted; names the failures, with advice.
    """
    share = f"{report['arrived']} of {report['addresses']} pictures arrived ({report['share']:.1%})"
    failed = found[found["failure"].notna()]
    if report["share"] < settings.download.accepted or not report["arrived"]:
        raise UserError(
            f"{name}: {share}, download.accepted is {settings.download.accepted:.1%}: {why(failed)}; all of it is in "
            f"{folder / REPORT}, and what arrived is kept: run again to try once more"
        )
    log.info("%s: %s%s", name, share, f": {why(failed).rpartition(';')[0]}" if len(failed) else "")
