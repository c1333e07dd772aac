"""Files on web servers: fetched once, kept, and resumed after a broken connection."""

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
CHUNK, TIMEOUT = 1 << 20, 30  # bytes per read, seconds without data


def hosted(url: str, wanted: str | None = None, folder: Path = FOLDER) -> Path:
    """Return the local copy of a hosted file; fetch it if there is no copy.

    Args:
        url: address that begins with http:// or https://.
        wanted: required SHA-256; an existing copy is checked on every call, like a local file.
        folder: folder of the copies; a copy has the file name from the address.

    Raises:
        UserError: the server does not answer, does not have the file, or ends the transfer early; or the file has
            another hash.
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
    """Return the file name in an address, without the query."""
    return urlsplit(url).path.rpartition("/")[2]


def _fetch(url: str, part: Path) -> None:
    """Append the missing bytes of the file to `part`; start again if the file on the server has changed."""
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
    """Return an identifier of the file's version: the ETag, or Last-Modified; weak ETags do not identify bytes."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _facts(part: Path) -> Path:
    """Return the path of the JSON file with the version and total size of the file that a part belongs to."""
    return part.with_name(f"{part.name}.json")


def _begun(part: Path) -> tuple[int, dict[str, Any]]:
    """Return the size of a part in bytes, and its facts; (0, {}) if either file is missing or unreadable."""
    try:
        return part.stat().st_size, read_json(_facts(part))
    except (OSError, UserError):
        return 0, {}
