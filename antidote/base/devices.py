"""Which GPU a job computes on: of the jobs that run on one machine at the same time, each takes another.

Snakemake counts GPUs but assigns none. A job locks a file per GPU that it uses; the system takes the lock away when the
process ends, however it ends. Nothing is done where somebody else has assigned: in the processes that torchrun starts,
and where a job sees no more GPUs than it needs, as under Slurm. More jobs than GPUs share them evenly.
"""

import fcntl
import logging
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger("antidote")

VISIBLE = "CUDA_VISIBLE_DEVICES"
NAMED = "ANTIDOTE_GPUS"  # names the machine's GPUs where they are not found by themselves
OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
_HELD: list[BinaryIO] = []  # locks, until the process ends
_ASKED: list[int] = []


def claim(count: int = 1) -> list[str]:
    """Take `count` GPUs, those with the fewest jobs first, and let this process see no others; return their names.

    Has to come before CUDA is used. Does nothing, and returns [], the second time and where there is nothing to choose.
    """
    known = devices()
    _ASKED.append(count)
    if len(_ASKED) > 1 or len(known) <= count or OF_TORCHRUN in os.environ:
        return []
    taken: list[str] = []
    jobs = 0
    while len(taken) < count:
        for device in known:
            if device not in taken and len(taken) < count and _lock(device, jobs):
                taken.append(device)
        jobs += 1
    os.environ[VISIBLE] = ",".join(taken)
    log.info("on GPU %s", ", ".join(taken))
    return taken


def devices() -> list[str]:
    """Return the GPUs that this process may use: those named by the environment, else the machine's, from 0.

    CUDA counts those that it sees; the numbers under /dev are the host's, of which a container may have any.
    """
    for name in (VISIBLE, NAMED):
        if name in os.environ:
            return [device.strip() for device in os.environ[name].split(",") if device.strip()]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def _lock(device: str, jobs: int) -> bool:
    """Take the place of a GPU that is free where `jobs` others use it; tell whether it was."""
    folder = Path(tempfile.gettempdir()) / f"antidote-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    file = (folder / f"{device}.{jobs}".replace("/", "_")).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _HELD.append(file)
    return True
