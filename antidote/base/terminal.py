"""What is printed reaches every terminal and log, also where the encoding has not all letters."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterable


def accept_all_letters(handlers: Iterable[logging.Handler] = ()) -> None:
    """Let standard output and error show what their encoding lacks as numbers, `\\xf6`, in the place of an error.

    Args:
        handlers: those of a log; their files become UTF-8 from here on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test may have put something else there
            with contextlib.suppress(OSError):  # a pipe in the place of a file: its position cannot be asked for
                stream.reconfigure(errors="backslashreplace")
    for handler in handlers:
        if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8", errors="backslashreplace")
