"""Choice of the GPU: jobs that run on one machine at the same time use different GPUs.

Snakemake counts GPUs but assigns none. A job locks one file per GPU; the operating system releases the lock when the
process ends, even after a crash. Jobs with an assigned GPU lock nothing: processes started by torchrun, and jobs that
see no more GPUs than needed, as under Slurm. If there are more jobs than GPUs, the jobs share the GPUs evenly. If the
folder for temporary files does not support locks, all jobs use the first GPU.
"""

import logging
import os
import tempfile
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from antidote.base.errors import UserError
from antidote.base.locks import NoLocks, lock, warn

log = logging.getLogger("antidote")

VISIBLE = "CUDA_VISIBLE_DEVICES"
NAMED = "ANTIDOTE_GPUS"  # lists the machine's GPUs if automatic detection fails
NONE = ("-1", "NoDevFiles")  # CUDA ignores these values and all values after them
OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
_HELD: list[BinaryIO] = []  # open lock files, kept until the process ends
_ASKED: list[int] = []


def claim(count: int = 1) -> list[str]:
    """Claim the `count` GPUs with the fewest jobs and hide all other GPUs from this process.

    Must be called before CUDA is used.

    Returns:
        The claimed GPUs; empty on a second call and if there is no choice.
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
    """Return the GPUs that this process may use: the GPUs named by the environment, otherwise the machine's, from 0.

    CUDA counts visible GPUs only. The numbers under /dev are those of the host; a container may have any subset.
    """
    named = _named()
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))] if named is None else named


def _named() -> list[str] | None:
    """Return the GPUs named by the environment; None: it names neither GPUs nor that there are none."""
    for name in (VISIBLE, NAMED):
        if name in os.environ and (name == VISIBLE or os.environ[name].strip()):  # CUDA takes an empty list as no GPU
            named = (device.strip() for device in os.environ[name].split(","))
            return list(takewhile(lambda device: device not in NONE, filter(None, named)))
    return None


def check(usable: bool) -> None:
    """Check that torch can use the GPUs that were claimed or that the environment names; call after `claim`.

    A GPU that only /dev shows may be meant for other programs: a warning, once.

    Args:
        usable: whether torch can use a GPU.

    Raises:
        UserError: torch cannot; silent training on the CPU would take weeks.
    """
    if usable:
        return
    if named := _named():  # names what was claimed as well
        raise UserError(
            f"GPU {', '.join(named)}: torch cannot use it; see `nvidia-smi -L`, and docs/paper.md for driver and card; "
            f"name this machine's GPUs in {NAMED}, as 0,1, or compute on the CPU with `{VISIBLE}=`"
        )
    if devices():
        _warn_of_cpu()


@cache
def _warn_of_cpu() -> None:
    log.warning("on the CPU: torch cannot use this machine's GPU; `%s=` says that this is meant", VISIBLE)


def _fewest_jobs(known: list[str], count: int) -> list[str]:
    """Return the `count` GPUs with the fewest jobs, and lock a slot on each.

    Raises:
        NoLocks: slots cannot be locked.
    """
    folder = Path(tempfile.gettempdir()) / f"antidote-gpus-{os.getuid()}"
    taken: list[str] = []
    jobs = 0
    while len(taken) < count:
        for device in known:
            if device in taken or len(taken) == count:
                continue
            slot = lock(folder / f"{device}.{jobs}".replace("/", "_"))
            if slot is not None:
                _HELD.append(slot)
                taken.append(device)
        jobs += 1
    return taken
