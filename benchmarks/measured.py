"""What the benchmarks share: the line that names machine and versions, printed output, and the cost of a process."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from antidote.base import devices  # noqa: E402
from antidote.base.machine import processor  # noqa: E402

PACKAGES = {"open_clip": "open_clip_torch"}  # names of packages whose installed name is another
# In a process of its own: a process that has asked CUDA for a name cannot fork others that use the GPU.
ASK = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"


class Cost(NamedTuple):
    """What one process took: seconds of wall time and of the processor, peak memory in MB, and what it printed."""

    wall: float
    cpu: float
    memory: float
    output: str


def machine(*packages: str) -> dict[str, Any]:
    """Return the GPU (`CPU` without one), the processor, its cores, and the versions of Python and the packages."""
    gpu = ""
    if devices.devices():
        done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, encoding="utf-8", check=True)
        gpu = done.stdout.splitlines()[-1].strip()
    found = {"device": gpu or "CPU", "gpu": bool(gpu), "processor": processor(), "cores": os.cpu_count()}
    versions = {name: version(PACKAGES.get(name, name)) for name in packages}
    return {**found, "machine": platform.machine(), "python": platform.python_version(), **versions}


def heading(found: Mapping[str, Any], *packages: str) -> str:
    """Return machine and versions in one line, as `AMD EPYC (family 25, model 17), 2 cores; Python 3.12.3, torch 2.8`.

    Args:
        found: what `machine` returned for the packages, or more.
        packages: the packages to name.
    """
    where = [found["device"]] if found["gpu"] else []
    where += [found["processor"], f"{found['cores']} core{'s' * (found['cores'] != 1)}"]
    versions = [f"Python {found['python']}", *(f"{name} {found[name]}" for name in packages)]
    return f"{', '.join(where)}; {', '.join(versions)}"


def say_machine(*packages: str) -> None:
    """Print machine and versions: the first line of every benchmark."""
    say(heading(machine(*packages), *packages))


def say(line: str) -> None:
    """Print a line at once, so that it stands before what child processes print."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(command: Sequence[object], folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Cost:
    """Run a process and return what it cost and printed, errors included; exit with its last words if it fails.

    Linux counts memory of this process at the start as the child's; this process should hold few packages.

    Args:
        command: program and arguments.
        folder: working folder; None: that of this process.
        environment: variables added to those of this process.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        output.seek(0)
        printed = output.read()
    if process.returncode:
        sys.exit(printed[-2000:])
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, printed)


def script(name: str, *arguments: object, folder: Path | None = None) -> Cost:
    """Run one of the project's scripts on one thread."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return run([sys.executable, "-m", f"scripts.{name}", *arguments], folder, environment)


def whole_rounds(steps: Sequence[int], workers: int) -> tuple[int, int]:
    """Return the two steps between which a steady rate is measured: after a quarter, rounds of all loaders apart.

    Loader processes that are slower than their reader deliver in bursts, a batch of each: between any other two steps
    the count of batches is off by up to a burst.

    Args:
        steps: steps with a known time, ascending; where none are rounds apart, the first after a quarter and the last.
        workers: loader processes; 0 as 1.
    """
    later = [step for step in steps if step >= steps[-1] / 4]
    pairs = [(first, last) for first in later for last in later if last > first]
    apart = [pair for pair in pairs if (pair[1] - pair[0]) % max(1, workers) == 0]
    return max(apart, key=lambda pair: pair[1] - pair[0], default=(later[0], steps[-1]))
