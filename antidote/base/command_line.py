"""Helpers of all scripts in `scripts/`: arguments, logging, one-line errors, and the cost of a job."""

import argparse
import atexit
import errno
import json
import logging
import math
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from antidote.base import checkout, environment
from antidote.base.errors import UserError, out_of_memory
from antidote.base.files import write_json
from antidote.base.machine import processor
from antidote.base.settings import read_mapping

log = logging.getLogger("antidote")

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # names the file in which torchrun expects a process's error


NAMING = (None, Path, read_mapping)  # types of arguments that name something


class Parser(argparse.ArgumentParser):
    """A parser that refuses an empty word, as of an unset variable of a shell, where something has to be named.

    An empty path would be the working folder. An argument whose default is empty may be empty.
    """

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Return the value of a word; argparse calls this for each word, with the argument that the word is for.

        Raises:
            UserError: the word is empty.
        """
        if arg_string == "" != action.default and action.type in NAMING and not action.choices:
            name = next(iter(action.option_strings), action.metavar or action.dest)
            raise UserError(f"{name}: is empty; should name: {action.help or 'a file or a folder'}")
        return super()._get_value(action, arg_string)


Kind = TypeVar("Kind", bound=argparse.ArgumentParser)


def parser(description: str | None, kind: type[Kind] = Parser) -> Kind:
    """Return a parser whose help shows `description`, the script's docstring, and the defaults.

    Options are not abbreviated: a further option of a later version would change what an abbreviation means.
    """
    return kind(description=description, formatter_class=_Help, allow_abbrev=False)


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that are values; "(default: None)" says nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        empty = action.default is None or action.default is False or action.default == []
        return action.help if empty else super()._get_help_string(action)


def settings_argument(arguments: argparse.ArgumentParser, what: str) -> None:
    """Add `--settings`: JSON text, or the path of a JSON or YAML file; `what` describes the settings in the help."""
    arguments.add_argument(
        "--settings", type=read_mapping, default="{}", metavar="JSON|FILE", help=f"{what}, as JSON or a file"
    )


def text(word: str) -> str:
    """Return an argument decoded as UTF-8, whatever the locale; invalid UTF-8 stays as the locale decoded it."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


def seed(word: str) -> int:
    """Return the seed in an argument, a whole number from 0 to 2**64 - 1 as torch requires.

    Raises:
        argparse.ArgumentTypeError: the argument is no such number.
    """
    number = int(word) if word.isascii() and word.isdigit() else -1
    if not 0 <= number < 1 << 64:
        raise argparse.ArgumentTypeError(f"{word!r} should be a whole number from 0 to 2**64 - 1")
    return number


def count(word: str) -> int:
    """Return the number in an argument, a whole number from 0 on.

    Raises:
        argparse.ArgumentTypeError: the argument is no such number.
    """
    if not (word.isascii() and word.isdigit()):
        raise argparse.ArgumentTypeError(f"{word!r} should be a whole number from 0 on")
    return int(word)


def positive_count(word: str) -> int:
    """Return the number in an argument, a whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: the argument is no such number.
    """
    number = int(word) if word.isascii() and word.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word!r} should be a whole number from 1 on")
    return number


def amount(word: str) -> float:
    """Return the number in an argument, finite and not negative.

    Raises:
        argparse.ArgumentTypeError: the argument is no such number.
    """
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} should be a number from 0 on")
    return number


def positive(word: str) -> float:
    """Return the number in an argument, finite and above 0.

    Raises:
        argparse.ArgumentTypeError: the argument is no such number.
    """
    number = amount(word)
    if not number:
        raise argparse.ArgumentTypeError(f"{word!r} should be a number above 0")
    return number


def main(run: Callable[[argparse.Namespace], Any], arguments: argparse.ArgumentParser) -> None:
    """Parse the arguments and run; errors that a user can mend become one line on standard error, with exit code 1.

    A script that has imported torch and succeeds ends its process here, unless another program called it.
    """
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
        # All text is written as UTF-8, so only file names can cause this error.
        _give_up(
            f"{error.object}: the locale's encoding, {error.encoding}, has no such letters for names of files; set "
            "LC_ALL=C.UTF-8, or PYTHONUTF8=1"
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        sys.exit(f"error: {error.filename or 'output'}: {error.strerror}; free or allow space there and run again")
    if "torch" in sys.modules and run is getattr(sys.modules["__main__"], "run", None):
        _leave()


def _leave() -> None:
    """End the process with code 0, without a second of freeing the objects of torch and other packages one by one.

    What has to happen at the end still does: functions of `atexit`, which end loader processes and logs, and flushing.
    Where other threads live, Python ends the process as usual: it alone can stop those that wait for work.
    """
    if any(thread is not threading.current_thread() and not thread.daemon for thread in threading.enumerate()):
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _start_log() -> None:
    """Show this project's messages from INFO on and errors of libraries, each message once."""
    # open_clip logs verbosely through the root logger.
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_unseen)
    log.setLevel(logging.INFO)


def _unseen(record: logging.LogRecord) -> bool:
    """Return whether no other logger has shown a record; Hugging Face's logger, for example, has its own handler."""
    logger = logging.getLogger(record.name)
    while logger.parent is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return False
        logger = logger.parent
    return True


def _reader_is_gone() -> bool:
    """Return whether the program that reads standard output, such as `head`, has ended.

    If so, redirect standard output to the null device.
    """
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no standard output, or closed
        return False
    waiting = select.poll()
    waiting.register(output, 0)  # mask 0: errors only
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
    """Seconds and peak memory of one job, for `cost.json`; kept separate from scores, which must compare byte for byte.

    Example:
        cost = Cost()
        ...
        cost.write(arguments.cost, pairs=len(pairs))
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._commit = checkout.commit()  # the checkout may change while the job runs

    def spent(self) -> dict[str, float | int | None]:
        """Return wall time in seconds and peak memory in bytes so far: host, and GPU if one is used."""
        torch = sys.modules.get("torch")
        return {
            "seconds": round(time.perf_counter() - self._start, 3),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else None,
        }

    def write(
        self, path: str | Path | None, earlier: Mapping[str, Any] | None = None, **more: float | int | None
    ) -> dict[str, float | int | str | None]:
        """Write the cost of the job.

        Args:
            path: the file; None: nothing is written.
            earlier: what an earlier process has spent on a part of the job, as `spent` returns it: its seconds are
                added, and the larger memory counts.
            more: further values of the stage.

        Returns:
            Wall time in seconds, peak memory in bytes (host, and GPU if one is used), threads, the name of the GPU or
            processor, and `more`; with a path, also the commit at the job's start and the fingerprint of its code.
        """
        own = self.spent()
        before = {name: (earlier or {}).get(name) or 0 for name in own}
        on_gpu = own["peak_gpu_memory_bytes"]
        spent = {
            "seconds": round(own["seconds"] + before["seconds"], 3),
            "peak_memory_bytes": max(own["peak_memory_bytes"], before["peak_memory_bytes"]),
            "peak_gpu_memory_bytes": on_gpu and max(on_gpu, before["peak_gpu_memory_bytes"]),
            "threads": environment.threads(),
            "device": sys.modules["torch"].cuda.get_device_name() if on_gpu else processor(),
            **more,
        }
        if path is not None:
            spent |= {"commit": self._commit, "code": checkout.code()}
            write_json(path, spent)
        return spent


def to_json(value: Any) -> str:
    """Return canonical JSON, for identities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def leave_word(text: str) -> None:
    """Report a user error through torchrun's error file; the parent process shows the message once."""
    message = {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}  # torchrun's format
    Path(os.environ[ERROR_FILE]).write_text(json.dumps({"message": message, "told": text}), encoding="utf-8")
