"""What `snakemake -n` costs with nothing to do: empty workflow, default study, 1,000 cells, on request 10,000.

    python benchmarks/dry_run.py                     # two minutes
    python benchmarks/dry_run.py --ten-thousand      # 20 minutes more, most of them to make the study

Wall time, processor time, peak memory, and processor time as a multiple of that of an empty workflow, Snakemake's own
start. On a busy machine the wall time means nothing, the multiple still does.

Every output is made as an empty file and recorded as finished in a temporary copy of the project; nothing is trained.
`snakemake --touch` would do that too, but sleeps a tenth of a second per job and takes long to schedule thousands.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from measured import ROOT, Cost, run, say, say_machine

COPIED = ("Snakefile", "rules", "scripts", "antidote", "profiles", "envs", "data", "config.yaml")
STUDY = "study.yaml"
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


EMPTY = "rule all:\n    input:\n        'Snakefile',\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--attacks", type=int, default=20)
    parser.add_argument("--defenses", type=int, default=9, help="beside `none`")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ten-thousand", action="store_true", help="also a study with ten times as many cells")
    options = parser.parse_args()
    say_machine("snakemake")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        copy.mkdir()
        copy_project(copy)
        empty = Path(folder, "empty")
        empty.mkdir()
        (empty / "Snakefile").write_text(EMPTY, encoding="utf-8")
        own = show("empty workflow", best(empty, options.repeats), None)
        default = yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))
        report("default study", default, copy, options.repeats, own)
        for times in (1, 10) if options.ten_thousand else (1,):
            large = grown(default, options.attacks, options.defenses, times * options.seeds)
            report("large study", large, copy, options.repeats, own)


def copy_project(folder: Path) -> None:
    """Copy what a study needs, without the data, results and caches that git ignores."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *COPIED]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
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


def report(name: str, study: dict, folder: Path, repeats: int, own: Cost) -> None:
    """Finish the study on paper, time the dry run, print one line."""
    (folder / STUDY).write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    snakemake(folder, "--configfile", STUDY, "--cores", "1", "--quiet", "all", program=[sys.executable, "-c", ON_PAPER])
    cells = len(study["attacks"]) * (len(study["defenses"]) + ("none" not in study["defenses"])) * len(study["seeds"])
    show(f"{name}, {cells:,} cells", best(folder, repeats, "--configfile", STUDY), own)


def best(folder: Path, repeats: int, *arguments: str) -> Cost:
    """Return the cheapest of several dry runs; the first one fills the caches and does not count."""
    costs = [snakemake(folder, "-n", *arguments) for _ in range(repeats + 1)][1:]
    for cost in costs:
        if "Nothing to be done" not in cost.output:
            sys.exit(f"{folder}: the dry run has something to do:\n{cost.output[-2000:]}")
    return min(costs, key=lambda cost: cost.cpu)


def show(name: str, cost: Cost, own: Cost | None) -> Cost:
    times = "" if own is None else f", {cost.cpu / own.cpu:.1f} times an empty workflow"
    say(f"{name}: {cost.wall:.2f} s, processor {cost.cpu:.2f} s{times}, at most {cost.memory:.0f} MB")
    return cost


def snakemake(folder: Path, *arguments: str, program: Sequence[str] = (str(SNAKEMAKE),)) -> Cost:
    """Run Snakemake in a folder; return what it cost and printed."""
    return run([*program, *arguments], folder, {"PYTHONPATH": ""})


if __name__ == "__main__":
    main()
