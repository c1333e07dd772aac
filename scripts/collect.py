"""Say what no study needs any more, and with --delete take it away.

In results/{study}: results of attacks, defenses and seeds that the study has no more, and checkpoints of jobs that have
finished or are gone. In the shared place (ANTIDOTE_CACHE): entries by the time of their last use, on request. What a
checkpoint would still go on from stays. DVC's own cache is `dvc gc`'s business.
"""

import argparse
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from antidote import cli
from antidote.errors import UserError
from antidote.settings import read_mapping
from antidote.shared import ENTRY, PLACE
from antidote.study import Study

GIB = 2**30  # bytes
DAY = 86400  # seconds
SUMMARY = {"clean", "summary", "logs", "benchmarks", "pools", "work"}
STAGES = {"trigger", "poison", "model", "floor"}


@dataclass(frozen=True)
class Waste:
    """What could go, and why."""

    path: Path
    reason: str

    def size(self) -> int:
        """Return bytes; a link counts for itself."""
        files = [self.path] if not self.path.is_dir() or self.path.is_symlink() else self.path.rglob("*")
        return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())

    def delete(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def run(arguments: argparse.Namespace) -> None:
    study = Study(read_mapping(arguments.configfile), arguments.configfile)
    if arguments.delete and any(Path(".snakemake/locks").glob("*")):
        raise UserError("Snakemake is at work in this folder; wait for it, or after a kill run: snakemake --unlock")
    found = [*of_study(study, Path("results", study.name))]
    if arguments.shared_days is not None or arguments.shared_gib is not None:
        found += of_shared(place(), arguments.shared_days, arguments.shared_gib)
    total = 0
    for waste in found:
        size = waste.size()
        total += size
        verb = "gone" if arguments.delete else "would go"
        if arguments.delete:
            waste.delete()
        cli.log.info("%s: %s (%.1f MiB): %s", verb, waste.path, size / 2**20, waste.reason)
    advice = "" if arguments.delete or not found else "; --delete takes it away"
    cli.log.info("%d places, %.2f GiB%s", len(found), total / GIB, advice)


# --- results of a study ----------------------------------------------------------------------------------------------


def of_study(study: Study, results: Path) -> Iterator[Waste]:
    """Yield what the study has no entry for any more, then checkpoints that no job goes on from."""
    gone = "is no more in the study"
    attacks, seeds = set(study.attacks), {f"seed{seed}" for seed in study.file.seeds}
    cells = set(study.cells)
    for folder in folders(results):
        if folder.name in SUMMARY - {"clean"}:
            continue
        if folder.name not in attacks | {"clean"}:
            yield Waste(folder, f"attack {folder.name} {gone}")
            continue
        for seed in folders(folder):
            if seed.name not in seeds:
                yield Waste(seed, f"seed {seed.name.removeprefix('seed')} {gone}")
                continue
            for part in folders(seed):
                known = part.name in STAGES or (folder.name, part.name) in cells or part.name == "none"
                if not known:
                    yield Waste(part, f"defense {part.name} on {folder.name} {gone}")
    yield from of_work(study, results)


def of_work(study: Study, results: Path) -> Iterator[Waste]:
    """Yield work folders of jobs that are gone, or whose model is there: Snakemake deletes that before a job starts."""
    jobs = {f"clean-seed{seed}": results / f"clean/seed{seed}" for seed in study.file.seeds}
    for attack, defense in study.cells:
        for seed in study.file.seeds:
            place = results / attack / f"seed{seed}"
            jobs[f"{attack}-seed{seed}"] = place
            jobs[f"{attack}-seed{seed}-{defense}"] = place / defense
    for folder in folders(results / "work"):
        if folder.name not in jobs:
            yield Waste(folder, "checkpoint of a job that is no more in the study")
        elif (jobs[folder.name] / "model" / "card.json").is_file():
            yield Waste(folder, "checkpoint of a job that has finished")


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder, hidden ones left out."""
    return sorted(p for p in path.glob("*") if p.is_dir() and not p.name.startswith("."))


# --- the shared place ------------------------------------------------------------------------------------------------


def place() -> Path:
    """Return the shared place.

    Raises:
        UserError: none is named, or it isn't there.
    """
    folder = os.environ.get(PLACE)
    if not folder or not Path(folder).expanduser().is_dir():
        raise UserError(f"{PLACE}: {folder or 'is not set'}; it should name the folder that stages are shared in")
    return Path(folder).expanduser()


def of_shared(folder: Path, days: float | None, gib: float | None) -> Iterator[Waste]:
    """Yield what kills have left, entries unused for `days`, and the longest unused until the rest fits into `gib`."""
    now = time.time()
    for left in folder.glob(".*.tmp"):
        if now - left.lstat().st_mtime > DAY:
            yield Waste(left, "was being written when its job was killed")
    entries = sorted((used(path), path) for path in folder.glob("*/*") if re.fullmatch(r"[0-9a-f]{64}", path.name))
    rest = sum(Waste(path, "").size() for _, path in entries)
    for last, path in entries:
        age = (now - last) / DAY
        if not ((days is not None and age > days) or (gib is not None and rest > gib * GIB)):
            continue
        rest -= Waste(path, "").size()
        yield Waste(path, f"last used {age:.0f} days ago")


def used(entry: Path) -> float:
    description = entry / ENTRY
    return (description if description.exists() else entry).stat().st_mtime


if __name__ == "__main__":
    parser = cli.parser(__doc__)
    parser.add_argument("--configfile", default="config.yaml", help="the study")
    parser.add_argument("--delete", action="store_true", help="take it away; without this nothing is changed")
    parser.add_argument("--shared-days", type=float, metavar="N", help="shared entries that nobody used for N days")
    parser.add_argument("--shared-gib", type=float, metavar="N", help="of shared entries, all but the last used N GiB")
    cli.main(run, parser)
