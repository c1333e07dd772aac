"""Environment variables that hold a number or a list; an empty or malformed value counts as not set."""

import os
import re


def number(name: str) -> int | None:
    """Return the number in a variable, at least 1, or the first in OpenMP's list (`4,2`, one per level); else None."""
    match = re.match(r"\s*(\d+)\s*(?:,|$)", os.environ.get(name, ""))
    return int(match[1]) or None if match else None


def threads() -> int:
    """Return the number of threads that this process may use: OMP_NUM_THREADS, otherwise the available processors."""
    return number("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
