"""What a job runs on, and since when.

Floating-point sums round differently on each kind of processor, so that trained weights differ.
"""

import os
import platform
import sys
import time
from functools import cache
from pathlib import Path

FACTS = Path("/proc/cpuinfo")  # Linux
PROCESS = Path("/proc/self/stat")  # Linux
LOADED = time.time()  # on other systems: a moment after the start of the process
START = 19  # field of a process's start, counted from the one after its name; in ticks since the machine started
NUMBERS = {"cpu family": "family", "model": "model", "CPU implementer": "implementer", "CPU part": "part"}  # x86, ARM


def processor() -> str:
    """Return the processor's name, its family and model where known, and the instructions that a loaded torch uses.

    Virtual machines often hide the name, not the numbers: `AMD EPYC (family 25, model 17), AVX512`.
    """
    facts = _facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{word} {facts[key]}" for key, word in NUMBERS.items() if key in facts]
    if numbers:
        name += f" ({', '.join(numbers)})"
    torch = sys.modules.get("torch")
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}" if torch else name


@cache
def _facts() -> dict[str, str]:
    """Return the first processor's entries; empty on other systems than Linux."""
    try:
        first = FACTS.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines if value.strip()}


def process_start() -> float:
    """Return when this process started, in seconds since 1970; of a fork, when it was forked.

    On other systems than Linux, when this module was loaded.
    """
    try:
        ticks = int(PROCESS.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[START])
    except OSError:
        return LOADED
    # The number is rounded down; in a hundredth of a second Python has not begun to load a project's code.
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - (ticks + 1) / os.sysconf("SC_CLK_TCK")
    return time.time() - age
