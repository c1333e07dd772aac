"""Which GPU a job computes on: of the jobs that run on one machine at the same time, each takes another.

Snakemake counts GPUs but assigns none. A job locks a file per GPU that it uses; the system takes the lock away when the
process ends, however it ends. Nothing is done where somebody else has assigned: in the processes that torchrun starts,
and where a job sees no more GPUs than it needs, as under Slurm. More jobs than GPUs share them evenly. Where the folder
for temporary files has no locks, all jobs take the first.
"""

import logging
import os
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from antidote.base.locks import NoLocks, lock, warn

log = logging.getLogger("antidote")

VISIBLE = "CUDA_VISIBLE_DEVICES"
NAMED = "ANTIDOTE_GPUS"  # names the machine's GPUs where they are not found by themselves
NONE = ("-1", "NoDevFiles")  # CUDA sees neither these nor what follows them
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
    try:
        taken = _fewest_jobs(known, count)
    except NoLocks as error:
        warn(error, f"jobs at the same time may take the same GPU; name another folder in TMPDIR, or GPUs in {VISIBLE}")
        taken = known[:count]
    os.environ[VISIBLE] = ",".join(taken)
    log.info("on GPU %s", ", ".join(taken))
    return taken


def devices() -> list[str]:
    """Return the GPUs that this process may use: those named by the environment, else the machine's, from 0.

    CUDA counts those that it sees; the numbers under /dev are the host's, of which a container may have any.
    """
    for name in (VISIBLE, NAMED):
        if name in os.environ and (name == VISIBLE or os.environ[name].strip()):  # to CUDA, an empty list is none
            named = (device.strip() for device in os.environ[name].split(","))
            return list(takewhile(lambda device: device not in NONE, filter(None, named)))
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def _fewest_jobs(known: list[str], count: int) -> list[str]:
    """Return the `count` GPUs of which the fewest jobs have taken a place, after taking one.

    Raises:
        NoLocks: places cannot be taken.
    """
    folder = Path(tempfile.gettempdir()) / f"antidote-gpus-{os.getuid()}"
    taken: list[str] = []
    jobs = 0
    while len(taken) < count:
        for device in known:
            if device in taken or len(taken) == count:
                continue
            place = lock(folder / f"{device}.{jobs}".replace("/", "_"))
            if place is not None:
                _HELD.append(place)
                taken.append(device)
        jobs += 1
    return taken
