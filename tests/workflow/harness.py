"""A project of its own for each test, with the tiny study finished in it; and what Snakemake says about it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
STUDY = "tests/studies/tiny.yaml"
PARTS = (
    "Snakefile", "antidote", "config.yaml", "configs", "data/classes", "data/datasets.yaml", "data/descriptions",
    "data/folders", "data/lexicons", "data/models", "data/published.yaml", "data/templates", "data/tracks.yaml", "envs",
    "profiles", "rules", "scripts", "tests/studies",
)  # fmt: skip
ATTACKS, DEFENSES = ("badnet", "blended"), ("none", "finetune", "ta_cleaner")


# --- projects --------------------------------------------------------------------------------------------------------


def new_project(folder: Path, source: Path = ROOT) -> Path:
    """Copy what a fresh clone holds and the workflow reads."""
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif (source / part).exists():
            shutil.copy2(source / part, folder / part)
    return folder


def copy_project(source: Path, folder: Path, link: bool = False) -> Path:
    """Copy a project with its results and Snakemake's records; file times stay.

    `link` hard-links what jobs wrote, for tests that run no job.
    """
    new_project(folder, source)
    datasets = {path.name for path in (source / "data").iterdir()} - {path.name for path in (folder / "data").iterdir()}
    for part in ("results", ".snakemake", *(f"data/{name}" for name in datasets)):
        shutil.copytree(source / part, folder / part, copy_function=os.link if link else shutil.copy2)
    return folder


@contextmanager
def edited(project: Path, texts: dict[str, str]) -> Iterator[None]:
    """Write files for a while; afterwards content and times are what they were."""
    before = {}
    for name, text in texts.items():
        path = project / name
        before[path] = (path.read_bytes(), path.stat()) if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a link to what other tests read
        path.write_text(text)
    try:
        yield
    finally:
        for path, kept in before.items():
            if kept is None:
                path.unlink()
            else:
                path.write_bytes(kept[0])
                os.utime(path, ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))


def study(project: Path, changes: dict[str, Any]) -> str:
    """Return the tiny study with some keys changed (`a.b.c`: value; None takes a key away), as YAML."""
    values = yaml.safe_load((project / STUDY).read_text())
    for key, value in changes.items():
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return yaml.safe_dump(values, sort_keys=False)


# --- running ---------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what points at another checkout, or at stages or servers of other runs."""
    elsewhere = ("PYTHONPATH", "ANTIDOTE_CACHE", "ANTIDOTE_WARM")
    return {key: value for key, value in os.environ.items() if key not in elsewhere} | more


def snakemake(
    project: Path, *arguments: str, config: str | None = STUDY, jobs: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run snakemake in a project; its whole output is in `stdout`. A dry run is a fork of a process that has imported it.

    `jobs` is what the fixture `quick_jobs` returns, for runs whose jobs need no process of their own.
    """
    words = [*arguments, *(["--configfile", config] if config else [])]
    if "-n" in arguments and not jobs:
        return _shared_driver("snakemake").run("snakemake", words, project, environment())
    return subprocess.run(
        [Path(sys.executable).with_name("snakemake"), *words],
        cwd=project, env=environment(**jobs or {}), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def script(project: Path, name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run one of the scripts in a project, as its rule does; its whole output is in `stdout`."""
    more = environment(PYTHONPATH=str(project), OMP_NUM_THREADS="1")
    return _shared_driver("jobs").run(name, arguments, project, more)


def script_command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"scripts.{name}", *map(str, arguments)]


def finish(project: Path) -> None:
    """Run the tiny study to its end."""
    done = snakemake(project, "--cores", "2")
    assert done.returncode == 0, done.stdout


def in_training(project: Path, script: str, folder: str) -> int | None:
    """Return the process of a training job once it catches SIGTERM, which it does while it trains.

    Of a fork, only script and project are known.
    """
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            fork = "--serve" in words and (process / "comm").read_text().strip() == script
            own = words[1:3] == ["-m", f"scripts.{script}"] and words[words.index("--output") + 1] == folder
            if not (fork or own) or (process / "cwd").readlink() != project:
                continue
            caught = re.search(r"^SigCgt:\s*(\w+)", (process / "status").read_text(), re.MULTILINE)
        except OSError:  # it has just ended
            continue
        if caught and int(caught.group(1), 16) >> (signal.SIGTERM - 1) & 1:
            return int(process.name)
    return None


class Driver:
    """Runs scripts (kind `jobs`) or snakemake in a project, without paying for imports each time.

    Kind `study` imports the project's own modules once too; kind `snakemake` imports them at each call, for projects
    whose source changes.
    """

    def __init__(self, project: Path | None, kind: str) -> None:
        """Without a project, each call names its own, and no source may be imported beforehand."""
        self.project = project
        self._turn = threading.Lock()
        more = {"PYTHONPATH": str(project)} if project else {}
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("driver.py"), kind], cwd=project, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(OMP_NUM_THREADS="1", **more),
        )  # fmt: skip

    def __call__(
        self, name: str, arguments: Iterable[object], file_limit: int | None = None, **more: Any
    ) -> tuple[int, str]:
        """Return exit code and output."""
        ask = {"name": name, "arguments": [str(word) for word in arguments], "file_limit": file_limit, **more}
        with self._turn:
            self._process.stdin.write(json.dumps(ask) + "\n")
            self._process.stdin.flush()
            code, output = json.loads(self._process.stdout.readline())
        return code, output

    def run(
        self, name: str, arguments: Iterable[object], project: Path, environment: dict[str, str]
    ) -> subprocess.CompletedProcess:
        """Make a call in a project, as if by `subprocess.run`."""
        code, output = self(name, arguments, folder=str(project), environment=environment)
        return subprocess.CompletedProcess([name, *arguments], code, output)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


@cache
def _shared_driver(kind: str) -> Driver:
    """One for all projects of a test process; it ends when its standard input does."""
    return Driver(None, kind)


def scheduled(project: Path, *arguments: str, config: str = STUDY, driver: Driver | None = None) -> set[str]:
    """Return the jobs that snakemake would run, such as `defend badnet 0 finetune`."""
    if driver:
        code, output = driver("snakemake", ["-n", *arguments, "--configfile", config])
    else:
        done = snakemake(project, "-n", *arguments, config=config)
        code, output = done.returncode, done.stdout
    assert code == 0, output
    found = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", output, re.MULTILINE)
    names = {_job(rule, details) for rule, details in found if rule != "all"}
    assert names or "Nothing to be done" in output, output
    return names


def sources(project: Path, config: str = STUDY) -> dict[str, list[str]]:
    """Return the modules that the rules name as the source of each job of a study."""
    driver = Driver(project, "snakemake")
    code, output = driver("sources", [config])
    driver.close()
    assert code == 0, output
    return json.loads(output.splitlines()[-1])


def _job(rule: str, details: str) -> str:
    wildcards = re.search(r"^ {4}wildcards: (.*)$", details, re.MULTILINE)
    values = [part.partition("=")[2] for part in wildcards.group(1).split(", ")] if wildcards else []
    return " ".join([rule, *values])


# --- cases -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A change to a finished project, and what has to run again.

    Attributes:
        name: what is changed.
        edits: returns, for a project, the files to write.
        direct: patterns of the jobs that depend on what is changed; all that follows from them runs too.
        jobs: the study's jobs after the change, as `chain` returns them.
        config: the study file.
    """

    name: str
    edits: Callable[[Path], dict[str, str]]
    direct: tuple[str, ...] = ()
    jobs: dict[str, list[str]] | None = None
    config: str = STUDY

    def expected(self) -> set[str]:
        return affected(self.jobs or chain(), self.direct)


# --- what should run -------------------------------------------------------------------------------------------------


def chain(
    attacks: Iterable[str] = ATTACKS,
    defenses: Iterable[str] = DEFENSES,
    seeds: Iterable[int] = (0,),
    adapted: bool = False,
    pictures: Iterable[str] = ("test 32",),
) -> dict[str, list[str]]:
    """Return every job of the tiny study with the jobs it takes its inputs from: the contract, written out."""
    train, defense, test = (f"dataset tiny {split}" for split in ("train", "defense", "test"))
    pairs = ["pool training", "pool poison", train]
    jobs: dict[str, list[str]] = {train: [], defense: [], test: []}
    scored = {f"pictures tiny {fit}": [f"dataset tiny {fit.split()[0]}"] for fit in pictures}
    jobs |= scored | {dataset: [] for [dataset] in scored.values()}
    jobs |= {"pool training": [train], "pool poison": [train], "pool defense": [defense]}
    scores = []
    for s in seeds:
        jobs[f"clean_model {s}"] = pairs
        jobs[f"evaluate_clean {s}"] = [f"clean_model {s}", *scored, test]
        scores.append(f"evaluate_clean {s}")
        for a in attacks:
            jobs[f"trigger {a} {s}"] = []
            jobs[f"poison {a} {s}"] = [f"trigger {a} {s}", "pool poison", train]
            jobs[f"backdoored_model {a} {s}"] = [*pairs, f"clean_model {s}", f"poison {a} {s}"]
            jobs[f"floor {a} {s}"] = [f"clean_model {s}", f"trigger {a} {s}", *scored, test]
            scores.append(f"floor {a} {s}")
            for d in defenses:
                model = f"backdoored_model {a} {s}"
                if d != "none":
                    jobs[f"defend {a} {s} {d}"] = [model, "pool defense", defense]
                    model = f"defend {a} {s} {d}"
                jobs[f"evaluate {a} {s} {d}"] = [model, f"trigger {a} {s}", *scored, test]
                scores.append(f"evaluate {a} {s} {d}")
                if adapted:
                    clean = f"clean_model {s}"
                    if d != "none":
                        jobs[f"defend_clean {s} {d}"] = [clean, "pool defense", defense]
                        clean = f"defend_clean {s} {d}"
                    read = [f"trigger {a} {s}", "pool defense", defense, *scored, test]
                    jobs[f"persistence {a} {s} {d} full"] = [model, *read]
                    jobs[f"persistence_clean {a} {s} {d} full"] = [clean, *read]
                    scores += [f"persistence {a} {s} {d} full", f"persistence_clean {a} {s} {d} full"]
    return {**jobs, "summary": scores}


def affected(jobs: dict[str, list[str]], changed: Iterable[str]) -> set[str]:
    """Return the jobs that match one of the patterns, and all that follow from them."""
    found = {job for job in jobs for pattern in changed if fnmatch(job, pattern)}
    while more := {job for job, needs in jobs.items() if job not in found and found.intersection(needs)}:
        found |= more
    return found
