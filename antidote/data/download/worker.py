"""Run img2dataset in its own environment with additional limits; started by `antidote.data.download.img2dataset`.

The first argument contains the options as JSON. Standard input is a pipe from the parent process: when the parent ends
for any reason, all processes of this run end. Download time and size of a picture are limited, and an incomplete
picture counts as failed.
"""

import http.client
import io
import json
import multiprocessing.pool
import os
import signal
import sys
import threading
import time
import types
import urllib.request
from typing import Any

import cv2

CHUNK = 1 << 16
LIMITS = {name: float(os.environ.get(f"ANTIDOTE_{name}", "inf")) for name in ("PATIENCE", "LARGEST")}

_open, _decode = urllib.request.urlopen, cv2.imdecode


class Answer:
    """An HTTP response with limits on time and size."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer, self._start = answer, time.monotonic()
        self.headers = answer.headers

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()

    def read(self) -> bytes:
        """Return the whole picture file.

        Raises:
            OSError, ValueError, http.client.IncompleteRead: too slow, too large, or cut short.
        """
        body = io.BytesIO()
        while chunk := self._answer.read1(CHUNK):
            body.write(chunk)
            if body.tell() > LIMITS["LARGEST"]:
                raise ValueError("file too large")
            if time.monotonic() - self._start > LIMITS["PATIENCE"]:
                raise TimeoutError("too slow")
        if self._answer.length:
            raise http.client.IncompleteRead(b"", self._answer.length)
        return whole(body.getvalue())


def whole(data: bytes) -> bytes:
    """Return a picture file unchanged.

    Raises:
        ValueError: a JPEG or PNG without its end marker; decoders would fill the missing part with a colour.
    """
    second_half = memoryview(data)[len(data) // 2 :].tobytes()
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in second_half:
        raise ValueError("truncated picture")
    if data.startswith(b"\x89PNG") and b"IEND" not in second_half:
        raise ValueError("truncated picture")
    return data


def bounded_open(request: urllib.request.Request, timeout: float) -> Answer:
    return Answer(_open(request, timeout=timeout))


def decode_to_8_bits(data: Any, flags: int) -> Any:
    """Decode a picture with cv2 and reduce 16 bits to 8; stored as JPEG, 16-bit values would clip to white."""
    picture = _decode(data, flags)
    return (picture >> 8).astype("uint8") if picture is not None and picture.dtype == "uint16" else picture


sys.modules["wandb"] = types.ModuleType("wandb")  # img2dataset imports it, but uses it only on request
urllib.request.urlopen, cv2.imdecode = bounded_open, decode_to_8_bits
# The child processes of img2dataset import this file, so the replacements apply to them too.


def end_with_starter() -> None:
    os.read(0, 1)  # not sys.stdin: a read would hold its lock at the regular end of the run
    os.killpg(os.getpgrp(), signal.SIGKILL)


_join = multiprocessing.pool.Pool._join_exited_workers


def end_with_workers(workers: list[Any]) -> bool:
    """Replace Pool's method, which restarts a killed process and then waits forever for the lost task.

    The exit codes are read after Pool's own look at them: a process may be killed while it looks.
    """
    before = list(workers)
    joined = _join(workers)
    if codes := [worker.exitcode for worker in before if worker.exitcode]:
        killed = f"was killed (signal {-codes[0]}), as a system does without memory; use fewer"
        reason = killed if codes[0] < 0 else f"ended with exit code {codes[0]}"
        print(f"failed with error a process {reason}", flush=True)  # noqa: T201 - the log of a download
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return joined


if __name__ == "__main__":
    multiprocessing.pool.Pool._join_exited_workers = staticmethod(end_with_workers)
    threading.Thread(target=end_with_starter, daemon=True).start()
    import img2dataset

    img2dataset.download(**json.loads(sys.argv[1]))
