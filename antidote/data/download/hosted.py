"""Files that somebody hosts: fetched once, kept, and taken up again where a connection broke."""

import hashlib
import logging
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from antidote.base.errors import UserError
from antidote.base.files import read_json, sha256, write_json

log = logging.getLogger("antidote")

FOLDER = Path("data/downloads/hosted")
OTHER = "has another SHA-256 than the definition says"
CHUNK, TIMEOUT = 1 << 20, 30  # bytes, seconds of silence


def hosted(url: str, wanted: str | None = None, folder: Path = FOLDER) -> Path:
    """Return the local copy of a hosted file, fetched if it is not there.

    Args:
        url: begins with http:// or https://.
        wanted: the SHA-256 that it must have; a copy that is there is checked each time, as a local file is.
        folder: where copies are kept, under the name at the end of the address.

    Raises:
        UserError: the server does not answer, has no such file, or breaks off; or the file has another hash.
    """
    name = hosted_name(url)
    if not name or name.startswith("."):
        raise UserError(f"splits: {url}: names no file")
    path = folder / hashlib.sha256(url.encode()).hexdigest()[:8] / name
    if path.exists():
        if wanted is not None and sha256(path) != wanted.lower():
            raise UserError(f"{path}: {OTHER}; remove it, and it is fetched again from {url}")
        return path
    part = path.with_name(f"{name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, part)
    except urllib.error.HTTPError as error:
        raise UserError(f"splits: {url}: the server says {error.code} {error.reason}") from None
    except (HTTPException, urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"splits: {url}: cannot be fetched ({reason}); what has come is kept, run again") from None
    _facts(part).unlink()
    if wanted is not None and sha256(part) != wanted.lower():
        part.unlink()
        raise UserError(f"splits: {url}: {OTHER}")
    part.replace(path)
    log.info("%s: %.3g MB from %s", path, path.stat().st_size / 1e6, url)
    return path


def hosted_name(url: str) -> str:
    """Return the name of the file at an address, without a query."""
    return urlsplit(url).path.rpartition("/")[2]


def _fetch(url: str, part: Path) -> None:
    """Append to `part` what of the file is not yet in it; begin again where the server has another file by now."""
    have, facts = _begun(part)
    resume = {"Range": f"bytes={have}-", **({"If-Range": facts["version"]} if facts["version"] else {})} if have else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=resume), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if have == facts["bytes"]:  # nothing is left to send
            return
        part.unlink()
        return _fetch(url, part)
    with answer:
        goes_on = answer.status == 206
        now = {"version": _version(answer), "bytes": (have if goes_on else 0) + (answer.length or 0)}
        if goes_on and now["bytes"] != facts["bytes"]:
            part.unlink()
            return _fetch(url, part)
        write_json(_facts(part), now)
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := answer.read1(CHUNK):
                file.write(chunk)
        if answer.length:
            raise ConnectionError(f"{answer.length} bytes are missing")


def _version(answer: HTTPResponse) -> str:
    """Return what tells this file from a later one under the same address; a weak ETag does not say that of bytes."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _facts(part: Path) -> Path:
    """Return the file that says which version of the file, of how many bytes, a part belongs to."""
    return part.with_name(f"{part.name}.json")


def _begun(part: Path) -> tuple[int, dict[str, Any]]:
    """Return how many bytes there are, and what they belong to; none where nobody knows that."""
    try:
        return part.stat().st_size, read_json(_facts(part))
    except (OSError, UserError):
        return 0, {}
