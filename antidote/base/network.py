"""What other libraries fetch from the network: from their cache without asking, else at once or not at all.

Hugging Face's library asks the hub for each file that it has in its cache, and where no hub answers, asks again and
again; open_clip, torch and torchvision wait without a limit for a server that falls silent.
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

ANSWER_SECONDS = 5.0  # in which a server has to answer at all
SILENT_SECONDS = 30.0  # that a server may be silent in the middle of a file


class NotFetched(Exception):
    """A file can't be had; the text is the reason."""


def pretrained(tag: Mapping[str, Any]) -> Path:
    """Return the weights file of one of open_clip's tags, after fetching it where it is not in the cache.

    Args:
        tag: what open_clip knows of it: `hf_hub` (repository and perhaps file), `url`.

    Raises:
        NotFetched: it is not in the cache, and its server does not answer, or does not have it.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # what there is to say, NotFetched says
    hosted = bool(tag.get("hf_hub"))
    try:
        with _offline(hosted):
            if hosted or _kept(tag["url"]).is_file():
                return Path(open_clip.download_pretrained(tag))
    except Exception:  # not in the cache: of any of the download libraries
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
    """Give up on a server that falls silent, in libraries that set no limit of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Let Hugging Face's library look into its cache alone."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _kept(url: str) -> Path:
    """Return where open_clip keeps a file from an address."""
    return Path("~/.cache/clip").expanduser() / Path(url).name


def _hub() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


@cache
def _unreachable(url: str) -> str:
    """Return why a server cannot be asked, "" where it answers, whatever it says; each is asked once."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.utils import get_session

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(url, timeout=ANSWER_SECONDS)
    except Exception as error:  # of whichever library is below
        return f"{url} does not answer: {' '.join(str(error).split())[:100] or type(error).__name__}"
    return ""
