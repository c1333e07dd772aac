"""Whether freed memory stays with the process; in processes of their own, which it changes until they end."""

import os
import subprocess
import sys

from antidote.base import allocation

PROGRAM = """
import resource
from antidote.base.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(100 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain, kept, _ = faults(), keep_freed_memory(), faults()
print(plain, kept, faults())
"""


def run(**variables):
    """Return page faults of 100 MB before, whether freed memory is kept since, and page faults of 100 MB freed before."""
    own = {name: value for name, value in os.environ.items() if name not in allocation.CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=own | variables, capture_output=True, text=True, check=True
    )
    plain, kept, again = done.stdout.split()
    return int(plain), kept == "True", int(again)


def test_memory_that_was_freed_is_used_again_without_the_system():
    plain, kept, again = run()
    assert kept and again < plain / 4


def test_thresholds_that_a_user_sets_stay():
    plain, kept, again = run(MALLOC_MMAP_THRESHOLD_="65536")
    assert not kept and again > plain / 2


def test_a_refused_threshold_leaves_the_other_as_it_is(monkeypatch):
    """Any of them ends glibc's adaptation of both: the other alone would have every block mapped by itself."""
    asked = []

    class Older:
        def mallopt(self, *given):
            asked.append(given)
            return 0

    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda _: Older())
    for name in allocation.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    assert not allocation.keep_freed_memory() and len(asked) == 1


def test_another_c_library_goes_on_as_it_is(monkeypatch):
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda _: object())
    assert not allocation.keep_freed_memory()
