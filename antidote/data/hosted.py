"""Files that somebody hosts: fetched once, kept, and taken up again where a connection broke."""

import hashlib
import logging
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from antidote.errors import UserError
from antidote.files import sha256

log = logging.getLogger("antidote")

FOLDER = Path("data/downloads/hosted")
CHUNK, TIMEOUT = 1 << 20, 30  # bytes, seconds of silence


def hosted(url: str, wanted: str | None = None, folder: Path = FOLDER) -> Path:
    """Return the local copy of a hosted file, fetched if it is not there.

    Args:
        url: begins with http:// or https://.
        wanted: the SHA-256 that it must have.
        folder: where copies are kept, under the name at the end of the address.

    Raises:
        UserError: the server does not answer, has no such file, or breaks off; or the file has another hash.
    """
    name = urlsplit(url).path.rpartition("/")[2]
    if not name or name.startswith("."):
        raise UserError(f"splits: {url}: names no file")
    path = folder / hashlib.sha256(url.encode()).hexdigest()[:8] / name
    if not path.exists():
        part = path.with_name(f"{name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(url, part)
        except urllib.error.HTTPError as error:
            raise UserError(f"splits: {url}: the server says {error.code} {error.reason}") from None
        except (HTTPException, urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(f"splits: {url}: cannot be fetched ({reason}); what has come is kept, run again") from None
        if wanted is not None and sha256(part) != wanted.lower():
            part.unlink()
            raise UserError(f"splits: {url}: has another SHA-256 than the definition says")
        part.replace(path)
        log.info("%s: %.3g MB from %s", path, path.stat().st_size / 1e6, url)
    return path


def _fetch(url: str, part: Path) -> None:
    """Append to `part` what of the file is not yet in it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send
            return
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        while chunk := answer.read1(CHUNK):
            file.write(chunk)
        if answer.length:
            raise ConnectionError(f"{answer.length} bytes are missing")
