"""What Snakemake adds to a job, and how long it takes from `dvc pull` to "nothing to be done".

Jobs: the same small jobs (splits of 8 pairs) as bare commands, one after the other, and through Snakemake on one core.
Snapshot: the default study on paper (see dry_run.py) with random bytes for weights, recorded, pushed to a folder,
cloned, pulled; takes five times --gb of disk. On a busy machine processor time alone means anything.

    python benchmarks/reuse.py
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from dry_run import ON_PAPER, STUDY, copy_project
from dry_run import snakemake as bare_snakemake
from measured import ROOT, say, say_machine

WEIGHTS = "open_clip_model.safetensors"
WHO = {f"GIT_{role}_{what}": "benchmark" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--gb", type=float, default=2.0, help="size of the snapshot")
    options = parser.parse_args()
    say_machine("snakemake", "dvc")
    default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        jobs(Path(folder, "project"), options.jobs)
    with tempfile.TemporaryDirectory() as folder:
        snapshot(Path(folder), default, options.gb)


def project(folder: Path, study: dict) -> Path:
    folder.mkdir()
    copy_project(folder)
    (folder / STUDY).write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return folder


def processor_seconds() -> float:
    """Return what this process's ended children have taken of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def snakemake(folder: Path, *arguments: str, **more: Sequence[str]) -> str:
    """Run the study of a copy of the project; return what Snakemake printed."""
    return bare_snakemake(folder, "--configfile", STUDY, *arguments, **more).output


def timed(what: str, run: Callable[[], object]) -> tuple[float, float]:
    """Run and say what it took; return wall and processor seconds."""
    start, spent = time.perf_counter(), processor_seconds()
    run()
    wall, cpu = time.perf_counter() - start, processor_seconds() - spent
    say(f"{what}: {wall:.2f} s, processor {cpu:.2f} s")
    return wall, cpu


def jobs(folder: Path, count: int) -> None:
    study = yaml.safe_load((ROOT / "tests/studies/tiny.yaml").read_text(encoding="utf-8"))
    study["datasets"]["tiny"]["splits"] |= {f"part{i}": {"pairs": 8, "seed": i} for i in range(count)}
    project(folder, study)
    targets = [f"data/tiny/part{i}/manifest.json" for i in range(count)]
    said = snakemake(folder, "-n", "--printshellcmds", "--", *targets)
    commands = re.findall(r"(python -m scripts.*)$", said, re.MULTILINE)
    if len(commands) != count:
        sys.exit(f"{len(commands)} commands instead of {count}:\n{said[-2000:]}")
    (folder / "data/logs").mkdir()  # where the commands' `tee` writes
    bare = timed(f"{count} bare commands", lambda: [shell(folder, command) for command in commands])
    one = timed("one job", lambda: snakemake(folder, "--cores", "1", "--forceall", "--", targets[0]))
    many = timed(f"{count} jobs", lambda: snakemake(folder, "--cores", "1", "--forceall", "--", *targets))
    for which, b, o, m in zip(("wall", "processor"), bare, one, many, strict=True):
        start, more = o - b / count, (m - o) / (count - 1) - b / count
        say(f"{which}: start {start:.2f} s, overhead per job {more:.3f} s, {more * count / b:.1%} of the bare command")


def shell(folder: Path, command: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=True, capture_output=True)


def snapshot(folder: Path, default: dict, gb: float) -> None:
    origin, clone = project(folder / "origin", default), folder / "clone"
    paper = [sys.executable, "-c", ON_PAPER]
    snakemake(origin, "--cores", "1", "--quiet", "all", program=paper)
    models = sorted(origin.rglob(WEIGHTS))
    for path in models:
        with path.open("wb") as file:
            for _ in range(max(1, int(gb * 1e9 / len(models) / 2**20))):
                file.write(os.urandom(2**20))
        os.utime(path, (1.7e9, 1.7e9))
    shutil.rmtree(origin / ".snakemake/metadata")
    snakemake(origin, "--cores", "1", "--quiet", "all", "--forceall", program=paper)  # with the weights' hashes
    for name in (".gitignore", ".dvcignore", ".dvc/config"):
        (origin / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, origin / name)
    with (origin / ".gitignore").open("a", encoding="utf-8") as file:
        file.write("/data/scenes/\n")
    run = lambda where, *words: lambda: command(where, *words)
    copied = timed("plain copies of the models", lambda: [shutil.copy(p, folder / "copy") for p in models])
    run(origin, "git", "init", "-q")()
    run(origin, "dvc", "remote", "add", "-d", "store", str(folder / "store"))()
    timed("snapshot", run(origin, sys.executable, "-m", "scripts.snapshot", "--configfile", STUDY))
    timed("push", run(origin, "dvc", "push"))
    run(origin, "git", "add", "-A")()
    run(origin, "git", "commit", "-qm", "snapshot")()
    run(folder, "git", "clone", "-q", str(origin), str(clone))()
    pull = timed(f"pull of {gb:g} GB in {len(models)} models", run(clone, "dvc", "pull"))
    dry = timed('snakemake -n, "nothing to be done"', lambda: nothing_to_do(clone))
    times = (pull[0] + dry[0]) / copied[0]
    said = f"{pull[0] + dry[0]:.2f} s, processor {pull[1] + dry[1]:.2f} s"
    say(f"from dvc pull to nothing to be done: {said}, {times:.1f} times plain copies of the models")


def nothing_to_do(folder: Path) -> None:
    said = snakemake(folder, "-n")
    if "Nothing to be done" not in said:
        sys.exit(f"the clone has something to do:\n{said[-2000:]}")


def command(folder: Path, *words: str) -> None:
    beside = Path(sys.executable).parent / words[0]
    first = str(beside) if beside.exists() else words[0]
    environment = {**os.environ, **WHO, "PYTHONPATH": str(folder)}
    done = subprocess.run([first, *words[1:]], cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(words)}:\n{(done.stdout + done.stderr)[-2000:]}")


if __name__ == "__main__":
    main()
