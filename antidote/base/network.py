"""Downloads of other libraries: cached files without a network request, other files immediately or not at all.

Hugging Face's library contacts the hub for each cached file, and retries if the hub does not answer; open_clip, torch
and torchvision wait without a limit for a silent server.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from antidote.base.lazy import open_clip

ANSWER_SECONDS = 5.0  # limit for the first answer of a server
SILENT_SECONDS = 30.0  # limit for silence in the middle of a file


class NotFetched(Exception):
    """A file cannot be fetched; the text is the reason."""


def pretrained(tag: Mapping[str, Any]) -> Path:
    """Return the weights file of one of open_clip's tags; download the file unless it is in the cache.

    Args:
        tag: open_clip's entry of the tag: `hf_hub` (repository and optional file), `url`.

    Raises:
        NotFetched: the file is not in the cache, and the server does not answer or does not have the file.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # NotFetched carries the reason
    hosted = bool(tag.get("hf_hub"))
    try:
        with _offline(hosted):
            if hosted or _kept(tag["url"]).is_file():
                return Path(open_clip.download_pretrained(tag))
    except Exception:  # not in the cache; each download library raises other errors
        pass
    reason = _unreachable(_hub() if hosted else tag["url"])
    if reason:
        raise NotFetched(reason)
    try:
        with limited():
            return Path(open_clip.download_pretrained(tag))
    except Exception as error:
        raise NotFetched(" ".join(str(error).split())[:200] or type(error).__name__) from None


@contextmanager
def limited() -> Iterator[None]:
    """Apply a timeout to silent servers, for libraries without a limit of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Restrict Hugging Face's library to its cache, if `wanted`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _kept(url: str) -> Path:
    """Return where open_clip caches the file of a URL."""
    return Path("~/.cache/clip").expanduser() / Path(url).name


def _hub() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


@cache
def _unreachable(url: str) -> str:
    """Return why a server cannot be reached, "" for any answer; each server is asked once."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.utils import get_session

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(url, timeout=ANSWER_SECONDS)
    except Exception as error:  # the HTTP library may change
        return f"{url} does not answer: {' '.join(str(error).split())[:100] or type(error).__name__}"
    return ""
