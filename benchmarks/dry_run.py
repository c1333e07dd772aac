"""Seconds that `snakemake -n` takes with nothing to do: the default study, a study of about 1,000 cells, one more cell.

Wall time and processor time; on a busy machine only the latter means anything.

Every output is made as an empty file and recorded as finished in a temporary copy of the project; nothing is trained.
`snakemake --touch` would do that too, but sleeps a tenth of a second per job and takes long to schedule thousands.

    python benchmarks/dry_run.py
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("Snakefile", "rules", "scripts", "antidote", "profiles", "envs", "data", "config.yaml")
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
# Runs snakemake with a scheduler that makes the outputs of all jobs at once and records the jobs as finished.
ON_PAPER = """
import asyncio, os, pathlib, sys
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

def schedule(self):
    dag = self.workflow.dag
    jobs = [job for job in dag.needrun_jobs() if job.output]
    for name in (str(path) for job in jobs for path in job.output):
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).touch()
        os.utime(name, (1.7e9, 1.7e9))
    async def record():
        for job in jobs:
            await self.workflow.persistence.finished(job)
    asyncio.run(record())
    return True

JobScheduler.schedule = schedule
main(sys.argv[1:])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--attacks", type=int, default=20)
    parser.add_argument("--defenses", type=int, default=10, help="beside `none`")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_project(copy)
        default = yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))
        report("default study", default, copy, options)
        large = grown(default, options.attacks, options.defenses, options.seeds)
        seconds, cells = report("large study", large, copy, options)
        more = grown(default, options.attacks, options.defenses + 1, options.seeds)
        more_seconds, more_cells = report("one defense more", more, copy, options)
        say(f"one more cell: {1000 * (more_seconds - seconds) / (more_cells - cells):.1f} ms of processor time")


def copy_project(folder: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = ("__pycache__", "*.tar", "train", "defense", "test") if name == "data" else ("__pycache__",)
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*ignored))
        else:
            shutil.copy(ROOT / name, folder / name)


def grown(study: dict, attacks: int, defenses: int, seeds: int) -> dict:
    """Return a study with that many attacks, defenses and seeds, made from the first of each."""
    attack, defense = next(iter(study["attacks"].values())), next(iter(study["defenses"].values()))
    return {
        **study,
        "study": "large",
        "seeds": list(range(seeds)),
        "attacks": {f"attack{i}": attack for i in range(attacks)},
        "defenses": {f"defense{i}": defense for i in range(defenses)},
    }


def report(name: str, study: dict, folder: Path, options: argparse.Namespace) -> tuple[float, int]:
    """Finish the study on paper, time the dry run, print one line; return processor seconds and cells."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    snakemake(folder, "--cores", "1", "--quiet", "all", program=[sys.executable, "-c", ON_PAPER])
    wall, cpu = [], []
    for _ in range(options.repeats):
        start, spent = time.perf_counter(), processor_seconds()
        output = snakemake(folder, "-n")
        wall.append(time.perf_counter() - start)
        cpu.append(processor_seconds() - spent)
        if "Nothing to be done" not in output:
            sys.exit(f"{name}: the dry run has something to do:\n{output[-2000:]}")
    cells = len(study["attacks"]) * (len(study["defenses"]) + ("none" not in study["defenses"])) * len(study["seeds"])
    seconds = statistics.median(cpu)
    say(f"{name}: {cells} cells, dry run with nothing to do {statistics.median(wall):.2f} s, processor {seconds:.2f} s")
    return seconds, cells


def processor_seconds() -> float:
    """Return what all finished child processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def snakemake(folder: Path, *arguments: str, program: Sequence[str] = (str(SNAKEMAKE),)) -> str:
    """Run Snakemake on the study; return what it printed."""
    command = [*program, "--configfile", "study.yaml", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": ""}
    )
    if done.returncode:
        sys.exit((done.stdout + done.stderr)[-2000:])
    return done.stdout + done.stderr


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
