"""Freed memory stays with the process, so that the next training step can use it again.

A step on a CPU frees its activations, and the next step needs as much again. glibc returns large freed blocks to the
system, which clears memory and hands it out page by page: 2 to 12 % of a step of RN50 at 224 pixels, batch 8.
"""

import ctypes
import os

# Parameters of mallopt: the size from which a block is mapped by itself, and returned as soon as it is free; the free
# memory at the end of the heap that is returned.
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
LARGEST = (1 << 31) - 1  # bytes that mallopt can take
CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")  # with which a user sets the same


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory until the process ends; return whether it does.

    It does not where an environment variable sets thresholds, nor in versions that refuse such large ones. Other C
    libraries go on as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in CHOSEN):
        return False
    return all(mallopt(threshold, LARGEST) for threshold in (MMAP_THRESHOLD, TRIM_THRESHOLD))
