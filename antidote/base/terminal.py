"""Output that works on every terminal and log, even if the encoding lacks a letter."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterable


def accept_all_letters(handlers: Iterable[logging.Handler] = ()) -> None:
    """Make standard output and error print letters missing from the encoding as escapes, `\\xf6`, instead of failing.

    Args:
        handlers: handlers of a log; their files switch to UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests may replace the streams
            with contextlib.suppress(OSError):  # a pipe in place of a file has no position
                stream.reconfigure(errors="backslashreplace")
    for handler in handlers:
        if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8", errors="backslashreplace")
