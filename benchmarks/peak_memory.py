"""The peak memory of a command and all processes that it starts, together.

A sum of resident sizes counts memory once for each process that shares it, such as the packages of the server of jobs
and its forks. Here, written memory is counted by proportional size (PSS), which divides a page among the processes that
share it; pages of mapped files (programs, libraries) count once for each file, as PSS would divide them with other
commands on the machine too. Linux only. Memory is sampled, so the peak of a moment between two samples is missed.

    python benchmarks/peak_memory.py -- snakemake --cores 2
"""

import argparse
import re
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
from measured import say, say_machine

MIB = 2**20
WRITTEN = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
Written = list[tuple[int, str]]  # bytes and name of each process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=float, default=0.2, help="seconds between two samples")
    parser.add_argument("command", nargs="+", help="program and arguments, after `--`")
    options = parser.parse_args()
    say_machine("snakemake", "torch", "psutil")
    start = time.perf_counter()
    process = psutil.Popen(options.command)
    processes, files, samples = watch(process, options.every)
    total = sum(size for size, _ in processes) + files
    largest = "".join(f", {name} {size / MIB:,.0f}" for size, name in sorted(processes, reverse=True))
    say(f"{time.perf_counter() - start:.0f} s, {samples} samples")
    say(f"peak {total / MIB:,.0f} MiB: mapped files {files / MIB:,.0f}{largest}")
    sys.exit(process.returncode)


def watch(process: psutil.Popen, every: float) -> tuple[Written, int, int]:
    """Wait for the end of a process; return what its tree held when it had written most memory.

    Args:
        process: a child of this process.
        every: seconds between two samples.

    Returns:
        written memory by process, bytes of mapped files, and how many samples there were.
    """
    peak, files, samples = [], 0, 0
    while process.poll() is None:
        tree, samples = family(process), samples + 1
        found = written(tree)
        if sum(size for size, _ in found) > sum(size for size, _ in peak):
            peak, files = found, mapped(tree)
        time.sleep(every)
    return peak, files, samples


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def written(tree: list[psutil.Process]) -> Written:
    """Return the PSS, in bytes, of memory that no file holds, and the name of each process that has not ended."""
    found = []
    for one in tree:
        try:
            text = Path(f"/proc/{one.pid}/smaps_rollup").read_text(encoding="utf-8")
            found.append((sum(int(size) * 1024 for size in WRITTEN.findall(text)), one.name()))
        except (OSError, psutil.NoSuchProcess):  # it has ended meanwhile
            continue
    return found


def mapped(tree: list[psutil.Process]) -> int:
    """Return the bytes of mapped files in memory, of each file the most that one process holds."""
    most: Counter[str] = Counter()
    for one in tree:
        try:
            maps = one.memory_maps()
        except psutil.NoSuchProcess:
            continue
        most |= Counter({part.path: part.rss - part.anonymous for part in maps if part.path.startswith("/")})
    return most.total()


if __name__ == "__main__":
    main()
