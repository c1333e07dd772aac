"""The start of a job: as a fork of the server of jobs, beside a process of its own.

The job reads open_clip's list of models and ends, so that nearly all of its time is its start. Both ways take turns.

    python benchmarks/starts.py --rounds 5
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measured import ROOT, say_machine

from antidote.base import warm

log = logging.getLogger("benchmark")

JOB = """
import os
from antidote.base.lazy import open_clip, torch
torch.nn.Linear(2, 2)(torch.zeros(1, 2))
open_clip.list_models()
os._exit(0)  # as the project's jobs end, without freeing packages
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="jobs each way")
    rounds = parser.parse_args().rounds
    say_machine("torch", "open_clip", "snakemake")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ |= {**dict.fromkeys(warm.THREADS, "1"), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        scripts = Path(folder, "scripts")
        scripts.mkdir()
        (scripts / "__init__.py").touch()
        (scripts / "job.py").write_text(JOB, encoding="utf-8")
        warm.start()
        server = os.environ[warm.WARM]
        first = seconds(folder, server)
        turns = [(seconds(folder, "0"), seconds(folder, server)) for _ in range(rounds)]
    own, fork = (statistics.median(column) for column in zip(*turns, strict=True))
    log.info("medians of %d rounds", rounds)
    log.info("a process of its own: %.2f s; a fork: %.2f s (%.1f times as fast)", own, fork, own / fork)
    log.info("the first fork, for which the server imports the packages: %.2f s", first)


def seconds(folder: str, server: str) -> float:
    """Return the wall time of one job."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "antidote.base.warm", "job"]
    subprocess.run(command, cwd=folder, env={**os.environ, warm.WARM: server}, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
