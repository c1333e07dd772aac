"""One run of img2dataset in its own environment: options, progress, errors."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from antidote.base.errors import UserError
from antidote.data.download.rounds import LIST, Round
from antidote.data.sources.url_table import UrlTable
from antidote.data.store.limits import LARGEST_PIXELS, LONGEST

log = logging.getLogger("antidote")

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = ROOT / ".venvs" / "download" / "bin" / "python"
LOG = "img2dataset.log"
POLL_SECONDS, LOG_SECONDS = 0.5, 10.0
DEAD = 500  # failures without any success after which a first round is stopped


class NothingArrives(Exception):
    """No address in the first work shards succeeded."""


def interpreter() -> str:
    """Return a Python interpreter with img2dataset: the current one, or the one from `make download`.

    Raises:
        UserError: img2dataset is not installed in either.
    """
    if find_spec("img2dataset"):
        return sys.executable
    if ENVIRONMENT.exists():
        return str(ENVIRONMENT)
    raise UserError("img2dataset: is not installed; `make download` builds an environment for it, or use --sdm conda")


def version(python: str) -> str:
    """Return the version of img2dataset in the environment of the interpreter `python`."""
    code = "from importlib.metadata import version; print(version('img2dataset'))"
    return subprocess.run([python, "-c", code], capture_output=True, encoding="utf-8", check=False).stdout.strip()


def picture_options(settings: UrlTable) -> dict[str, Any]:
    """Return img2dataset's options that affect the stored pictures."""
    size = settings.image_size
    return {
        "image_size": size or 256,
        "resize_mode": settings.resize if size else "no",
        "resize_only_if_bigger": settings.resize.startswith("keep_ratio"),
        "encode_format": "jpg",
        "encode_quality": settings.quality,
    }


def run(python: str, settings: UrlTable, part: Round, processes: int, name: str) -> None:
    """Run img2dataset on a round until all work shards are finished; `name` is the split's name in messages.

    Raises:
        NothingArrives: the first DEAD addresses have all failed.
        UserError: img2dataset ended before all work shards were finished.
    """
    options = {
        "url_list": str(part.folder / LIST),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "save_additional_columns": ["pair", "captions"],
        "output_folder": str(part.folder),
        "output_format": "webdataset",
        "number_sample_per_shard": part.per_shard,
        "processes_count": processes,
        "thread_count": settings.download.connections,
        "timeout": settings.download.timeout,
        "retries": settings.download.retries,
        "user_agent_token": settings.download.user_agent_token,
        "max_aspect_ratio": LONGEST,
        "extract_exif": False,
        "compute_hash": "sha256",
        "verify_hash": ["sha256", "sha256"] if settings.subset else None,
        **picture_options(settings),
    }
    environment = {
        **os.environ,
        "ANTIDOTE_PATIENCE": str(settings.download.patience),
        "ANTIDOTE_LARGEST": str(settings.download.largest * 10**6),
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(LARGEST_PIXELS),
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    with _process(
        [python, "-P", str(Path(__file__).with_name("worker.py")), json.dumps(options)], environment, part.folder / LOG
    ) as it:
        progress = _Progress(part, name)
        while it.poll() is None:
            progress.look()
            time.sleep(POLL_SECONDS)
        progress.look(last=True)
    if not part.done():
        raise UserError(
            f"{name}: {part.shards - len(part.finished)} of {part.shards} work shards are not finished "
            f"({_last_words(part.folder / LOG)}); the finished ones are kept: run again to go on"
        )


@contextmanager
def _process(command: list[str], environment: dict[str, str], output: Path) -> Iterator[subprocess.Popen]:
    """Start a process that ends with this process in any case; its standard input is a pipe from this process."""
    with output.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()


class _Progress:
    """Counts the finished work shards of this run, and logs the progress every LOG_SECONDS."""

    def __init__(self, part: Round, name: str) -> None:
        part.look()
        self._part, self._name = part, name
        self._before = set(part.finished)
        self._start = self._said = time.monotonic()
        self._shown = len(part.finished)

    def look(self, last: bool = False) -> None:
        part = self._part
        part.look()
        new = [stats for number, stats in part.finished.items() if number not in self._before]
        tried, got = sum(stats["count"] for stats in new), sum(stats["successes"] for stats in new)
        if not got and tried >= DEAD and not self._before and part.folder.name == "pass1":
            raise NothingArrives
        now = time.monotonic()
        if len(part.finished) > self._shown and (last or part.done() or now - self._said >= LOG_SECONDS):
            self._say(tried, now)
            self._said, self._shown = now, len(part.finished)

    def _say(self, tried: int, now: float) -> None:
        part, rate = self._part, tried / (now - self._start)
        count = sum(stats["count"] for stats in part.finished.values())
        got = sum(stats["successes"] for stats in part.finished.values())
        left = f", {_duration((part.addresses - count) / rate)} left" if rate and not part.done() else ""
        share = f"{got:,} of {count:,} pictures ({got / count:.0%})"
        log.info(
            "%s: %s: %d of %d work shards, %s, %.3g/s%s",
            self._name, part.folder.name, len(part.finished), part.shards, share, rate, left,
        )  # fmt: skip


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"


def _last_words(output: Path) -> str:
    """Return img2dataset's last message about a failure, or its last message of any kind."""
    text = output.read_text(encoding="utf-8", errors="replace")[-20_000:]
    failures = re.findall(r"failed with error (.+)", text)
    lines = failures or [line for line in re.split(r"[\r\n]+", text) if line.strip()] or ["no message"]
    return f"{' '.join(lines[-1].split())[:200]}; {output}"
