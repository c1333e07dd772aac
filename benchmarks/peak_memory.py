"""The peak memory of a command and all processes that it starts, together.

A sum of resident sizes counts memory once for each process that shares it, such as the packages of the server of jobs
and its forks. The proportional size (PSS) divides a shared page among these processes, so that the sum counts the page
once. Linux only. The sum is sampled, so the peak of a moment between two samples is missed; a sample takes some
milliseconds of a core.

    python benchmarks/peak_memory.py -- snakemake --cores 2
"""

import argparse
import sys
import time
from typing import NamedTuple

import psutil
from measured import say, say_machine

MIB = 2**20


class Sample(NamedTuple):
    """The memory of a process tree at one moment: bytes of PSS by process, and the names of the processes."""

    sizes: list[int]
    names: list[str]

    @property
    def total(self) -> int:
        return sum(self.sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=float, default=0.2, help="seconds between two samples")
    parser.add_argument("command", nargs="+", help="program and arguments, after `--`")
    options = parser.parse_args()
    say_machine("snakemake", "torch", "psutil")
    start = time.perf_counter()
    process = psutil.Popen(options.command)
    peak, samples = watch(process, options.every)
    say(f"{time.perf_counter() - start:.0f} s, {samples} samples")
    largest = sorted(zip(peak.sizes, peak.names, strict=True), reverse=True)
    say(f"peak {peak.total / MIB:,.0f} MiB, in {len(largest)} processes: "
        + ", ".join(f"{name} {size / MIB:,.0f}" for size, name in largest))  # fmt: skip
    sys.exit(process.returncode)


def watch(process: psutil.Popen, every: float) -> tuple[Sample, int]:
    """Wait for the end of a process; return the largest sample of its tree, and how many samples there were.

    Args:
        process: a child of this process.
        every: seconds between two samples.
    """
    peak, samples = sample(process), 1
    while process.poll() is None:
        time.sleep(every)
        peak, samples = max(peak, sample(process), key=lambda one: one.total), samples + 1
    return peak, samples


def sample(process: psutil.Process) -> Sample:
    """Return the memory of a process and its descendants; a process that ends meanwhile is left out."""
    sizes, names = [], []
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for one in tree:
        try:
            size, name = one.memory_full_info().pss, one.name()
        except psutil.NoSuchProcess:
            continue
        sizes.append(size)
        names.append(name)
    return Sample(sizes, names)


if __name__ == "__main__":
    main()
