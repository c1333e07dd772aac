"""What every script in `scripts/` shares: arguments, logging, one-line errors, the cost of the job."""

import argparse
import errno
import json
import logging
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from antidote.base import environment
from antidote.base.errors import UserError, out_of_memory
from antidote.base.files import write_json
from antidote.base.settings import read_mapping

log = logging.getLogger("antidote")

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torchrun looks for what a process has died of


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows the script's own docstring and the defaults."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=type(
            "Help", (argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter), {}
        ),
    )


def settings_argument(arguments: argparse.ArgumentParser, what: str) -> None:
    """Add `--settings`: JSON text, or the path of a JSON or YAML file."""
    arguments.add_argument(
        "--settings", type=read_mapping, default="{}", metavar="JSON|FILE", help=f"{what}, as JSON or a file"
    )


def text(word: str) -> str:
    """Return an argument, read as UTF-8 whatever the locale; what is no UTF-8 stays as the locale has it."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


def seed(word: str) -> int:
    """Return the number in an argument, where torch takes it as a seed: at least 0 and less than 2**64."""
    number = int(word) if word.isascii() and word.isdigit() else -1
    if not 0 <= number < 1 << 64:
        raise argparse.ArgumentTypeError(f"{word!r} should be a whole number from 0 to 2**64 - 1")
    return number


def main(run: Callable[[argparse.Namespace], Any], arguments: argparse.ArgumentParser) -> None:
    """Parse, run, and turn what a user can mend into one line on standard error and exit code 1."""
    _start_log()
    try:
        run(arguments.parse_args())
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        sys.exit(128 + signal.SIGPIPE)
    except UserError as error:
        _give_up(str(error))
    except (RuntimeError, MemoryError) as error:
        where = out_of_memory(error)
        if where is None:
            raise
        _give_up(
            f"batch_size: the job needs more than {where}; lower evaluation.batch_size where it scores and the "
            "batch_size of the training or tuning where it trains, or give it a larger device"
        )
    except UnicodeEncodeError as error:
        if error.encoding.lower() in ("utf-8", "utf8"):
            raise
        # All text is written as UTF-8; what is left are names of files.
        _give_up(
            f"{error.object}: the locale's encoding, {error.encoding}, has no such letters for names of files; set "
            "LC_ALL=C.UTF-8, or PYTHONUTF8=1"
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        sys.exit(f"error: {error.filename or 'output'}: {error.strerror}; free or allow space there and run again")


def _start_log() -> None:
    """Show this project's messages from INFO on, and errors of libraries, each once."""
    # open_clip reports through the root logger, at length.
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_unseen)
    log.setLevel(logging.INFO)


def _unseen(record: logging.LogRecord) -> bool:
    """Tell whether no logger on a record's way up has shown it: Hugging Face's has a handler of its own."""
    logger = logging.getLogger(record.name)
    while logger.parent is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return False
        logger = logger.parent
    return True


def _reader_is_gone() -> bool:
    """Tell whether standard output leads to a program that has ended, such as `head`; if so, write there no more."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # none, or closed
        return False
    waiting = select.poll()
    waiting.register(output, 0)  # errors alone
    if not any(event & select.POLLERR for _, event in waiting.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _give_up(reason: str) -> NoReturn:
    if os.environ.get(ERROR_FILE):
        leave_word(reason)
        sys.exit(1)
    sys.exit(f"error: {reason}")


class Cost:
    """Seconds and peak memory of one job, for `cost.json`; kept apart from scores, which must compare byte for byte."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def write(self, path: str | Path | None, **more: float | int | None) -> dict[str, float | int | None]:
        """Write seconds (wall), peak memory in bytes (host, and GPU where one is used) and whatever the stage adds.

        Returns what was written; without a path only that.
        """
        torch = sys.modules.get("torch")
        gpu = torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else None
        spent = {
            "seconds": round(time.perf_counter() - self._start, 3),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_gpu_memory_bytes": gpu,
            "threads": environment.threads(),
            **more,
        }
        if path is not None:
            write_json(path, spent)
        return spent


def to_json(value: Any) -> str:
    """Return canonical JSON, for identities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def leave_word(text: str) -> None:
    """Tell the starting process what a user can mend; it says it once, whichever processes met it."""
    message = {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}  # as torchrun writes and reads it
    Path(os.environ[ERROR_FILE]).write_text(json.dumps({"message": message, "told": text}), encoding="utf-8")
