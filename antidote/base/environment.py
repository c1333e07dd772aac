"""Environment variables that hold a number or a list: what is empty, or says something else, counts as not set."""

import os
import re


def number(name: str) -> int | None:
    """Return the number of a variable, from 1 on; of OpenMP's list (`4,2`, one per level), the first; None: not set."""
    found = re.match(r"\s*(\d+)\s*(?:,|$)", os.environ.get(name, ""))
    return int(found[1]) or None if found else None


def threads() -> int:
    """Return how many threads this process may compute with: OMP_NUM_THREADS, else the processors it may run on."""
    return number("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
