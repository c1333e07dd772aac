"""Files of a checkout that no study needs any longer."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from antidote.base import command_line
from antidote.base.cache import ENTRY, PLACE, named_place
from antidote.base.errors import UserError
from antidote.study import layout
from antidote.study.data_jobs import matrix
from antidote.study.study import Study

GIB = 2**30  # bytes
DAY = 86400  # seconds


@dataclass(frozen=True)
class Waste:
    """A file or folder that can be deleted, and the reason."""

    path: Path
    reason: str

    def size(self) -> int:
        """Return the size in bytes; a link counts as a link, without its target."""
        files = [self.path] if not self.path.is_dir() or self.path.is_symlink() else self.path.rglob("*")
        return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())

    def delete(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def of_study(study: Study, results: Path) -> Iterator[Waste]:
    """Yield results without an entry in the study, then checkpoints from which no job resumes."""
    gone = "is no more in the study"
    if results.is_symlink():  # a link to another disk, or to the results of another study
        if results.resolve().is_relative_to(results.parent.resolve()):
            command_line.log.info("%s: is a link to other results; left alone", results)
            return
        results = results.resolve()
    seeds = {layout.SEED.format(seed=seed): str(seed) for seed in study.file.seeds}
    cells = {attack: {d for a, d in study.cells if a == attack} for attack in study.attacks}
    parts = {name: cells[name] | {layout.NO_DEFENSE} | layout.fixed(layout.ATTACK) for name in cells}
    jobs = matrix(study)
    clean = {("clean", layout.NO_DEFENSE, name) for name in jobs.on_clean}
    detections = clean | {*study.detections}
    adapted = {*study.adapted}
    parts["clean"] = layout.fixed(layout.CLEAN) | {*study.clean_defenses}
    for folder in folders(results):
        if folder.name not in parts:
            if folder.name not in layout.fixed(""):
                yield Waste(folder, f"attack {folder.name} {gone}")
            continue
        for seed in folders(folder):
            if seed.name not in seeds:
                yield Waste(seed, f"seed {seed.name.removeprefix(layout.SEED.format(seed=''))} {gone}")
                continue
            for part in folders(seed):
                if part.name not in parts[folder.name]:
                    yield Waste(part, f"defense {part.name} on {folder.name} {gone}")
                    continue
                for one in folders(part / layout.DETECT):
                    if (folder.name, part.name, one.name) not in detections:
                        yield Waste(one, f"detector {one.name} on {folder.name} {gone}")
                for file in sorted((part / layout.ADAPTED).rglob("*.json")):
                    name = file.name.removesuffix(".json").removesuffix(".cost")
                    control = file.parent.name == "clean" and part.name not in study.clean_defenses
                    if control or (folder.name, part.name, name) not in adapted:
                        yield Waste(file, f"adaptation {name} on {folder.name} {gone}")
    for folder in folders(results / "surrogates"):
        if folder.name not in study.file.surrogates:
            yield Waste(folder, f"surrogate {folder.name} {gone}")
            continue
        for one in (one for seed in folders(folder) for one in folders(seed / layout.DETECT)):
            if folder.name not in jobs.population or one.name not in jobs.on_clean:
                yield Waste(one, f"detector {one.name} on {folder.name} {gone}")
    yield from of_work(study, results)


def of_work(study: Study, results: Path) -> Iterator[Waste]:
    """Yield work folders of removed or finished jobs; a job counts as finished if its first output exists."""
    kept, jobs = layout.Layout(results), matrix(study)
    done = {}
    for name, stage in layout.STAGES.items():
        if stage.work and not stage.shared:
            first = next(iter(stage.files))
            done |= {stage.work.format(**names): kept.path(name, first, **names) for names in jobs.jobs(name)}
    for folder in folders(results / layout.WORK):
        if folder.name not in done:
            yield Waste(folder, "work folder of a job that is no more in the study")
        elif done[folder.name].is_file():
            yield Waste(folder, "work folder of a job that has finished")


def folders(path: Path) -> list[Path]:
    """Return the visible subfolders of a folder; none for a link, since other checkouts may use its target."""
    if path.is_symlink():
        return []
    return sorted(p for p in path.glob("*") if p.is_dir() and not p.name.startswith("."))


def place() -> Path:
    """Return the shared cache folder.

    Raises:
        UserError: no folder is named, or the folder does not exist.
    """
    folder = named_place()
    if folder is None or not folder.is_dir():
        fault = "is not set" if folder is None else f"{folder}: no such folder"
        raise UserError(f"{PLACE}: {fault}; it should name the folder that stages are shared in")
    return folder


def of_shared(folder: Path, days: float | None, gib: float | None) -> Iterator[Waste]:
    """Yield leftovers of killed jobs, entries unused for `days`, and the oldest entries until the rest fits `gib`."""
    now = time.time()
    for left in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
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
