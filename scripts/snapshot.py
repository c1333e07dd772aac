"""Record a finished study with DVC: datasets, models, results, and Snakemake's provenance records.

Only finished studies are recorded: `snakemake -n` must list no job. A study without a stage in dvc.yaml gets a new
stage. No data leaves this machine without --push.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.data.words.lexicon import SPACY
from antidote.study.dvc_names import dvc_name
from antidote.study.layout import Layout
from antidote.study.study import Study

FILE = Path("dvc.yaml")
RECORDS = ".snakemake/metadata"
# What jobs depend on beside the study: code, and the project's own lists and settings in data/.
LISTS = (
    "classes", "datasets.yaml", "descriptions", "folders", "lexicons", "models", "published.yaml", "templates",
    "tracks.yaml",
)  # fmt: skip
SOURCES = ["Snakefile", "antidote", "rules", "scripts", *(f"data/{name}" for name in LISTS)]
RUN = "snakemake --cores all"


def run(arguments: argparse.Namespace) -> None:
    study = Study(read_mapping(arguments.configfile), arguments.configfile)
    stages = read_mapping(str(FILE)).get("stages", {}) if FILE.is_file() else {}
    own = owner(stages, wanted(study)[0])
    new = own is None
    if own is None:
        own = new_stage(stages, study, arguments.configfile)
    missing = [path for path in wanted(study) if owner(stages, path) is None]  # DVC allows each path in one stage
    stages[own]["outs"] = [*stages[own].get("outs", []), *({path: {"persist": True}} for path in missing)]
    names = list(dict.fromkeys([own, *(owner(stages, path) for path in wanted(study))]))
    for name in names:
        require_files(name, stages[name])
    for name in names:
        require_finished(name, stages[name].get("cmd", ""))
    if missing:
        write(own, stages[own], study, new)
    dvc("commit", "--force", *names)
    command_line.log.info("recorded %s; commit dvc.yaml and dvc.lock to Git", ", ".join(names))
    if arguments.push:
        dvc("push", *names)


# --- stages ----------------------------------------------------------------------------------------------------------


def wanted(study: Study) -> list[str]:
    """Return the paths in a snapshot of a study, the study's own folder first."""
    data = {f"data/{dataset}" for dataset, _ in study.splits()}
    if study.lexicon() == "wordnet" or study.lexicon().startswith(SPACY):
        data.add("data/wordnet")
    return [f"results/{study.name}", *sorted(data), RECORDS]


def owner(stages: dict[str, Any], path: str) -> str | None:
    """Return the stage with a path among its outputs."""
    return next((name for name, stage in stages.items() if path in outputs(stage)), None)


def outputs(stage: dict[str, Any]) -> list[str]:
    """Return the paths of a stage's outputs; an output is a text, or a mapping of a text to options."""
    return [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])]


def new_stage(stages: dict[str, Any], study: Study, config: str) -> str:
    """Add a stage for a study to `stages`; return the name of the stage.

    Raises:
        UserError: another stage has the name.
    """
    name = dvc_name(study.name)
    if name in stages:
        others = {path.split("/")[1] for path in outputs(stages[name]) if path.startswith("results/")} - {study.name}
        if same := [other for other in sorted(others) if dvc_name(other) == name]:
            raise UserError(
                f"{config}: study: {same[0]!r} and {study.name!r} are both {name!r} in {FILE}, which has - for .; "
                "rename one of them"
            )
        raise UserError(f"{FILE}: stages.{name}: is there, but results/{study.name} is not among its outs; add it")
    command = f"{RUN} --configfile {shlex.quote(config)}"
    stages[name] = {"cmd": command, "deps": SOURCES, "params": [{config: None}]}
    return name


def write(name: str, stage: dict[str, Any], study: Study, new: bool) -> None:
    """Write a stage into dvc.yaml, for a new stage also metrics and plots; the rest of the file is unchanged."""
    from dvc.utils.serialize import modify_yaml

    summary = Layout(Path("results", study.name)).outputs("summary")
    cells = {"template": "scatter", "x": "ca1_mean", "y": {summary["table"]: "asr1_mean"}}
    with modify_yaml(str(FILE)) as file:
        file.setdefault("stages", {})[name] = stage
        if new:
            file.setdefault("metrics", []).append(summary["metrics"])
            file.setdefault("plots", []).append({f"CA@1 and ASR@1 of {study.name}": cells})
    command_line.log.info("wrote stage %s into %s", name, FILE)


# --- commands --------------------------------------------------------------------------------------------------------


def require_files(name: str, stage: dict[str, Any]) -> None:
    """Raise UserError if a stage names a study file that does not exist, for example after a renaming."""
    words = shlex.split(stage.get("cmd", ""))
    named = {words[place + 1] for place, word in enumerate(words[:-1]) if word in ("--configfile", "--configfiles")}
    for entry in stage.get("params", []):  # a text entry is a key of DVC's own file params.yaml
        named |= set(entry) if isinstance(entry, dict) else set()
    for file in sorted(named):
        if not Path(file).is_file():
            raise UserError(
                f"{FILE}: stages.{name}: its cmd and params still name {file}, which is not there; write the new name "
                "there, or take the stage out and run this again"
            )


def require_finished(name: str, command: str) -> None:
    """Raise UserError if Snakemake would still run a job for a stage."""
    words = shlex.split(command)
    if not words or words[0] != "snakemake":
        return  # a stage that a user has added; the user checks its results
    done = call([Path(sys.executable).with_name(words[0]), *words[1:], "--dry-run"])
    if done.returncode:
        raise UserError(f"{name}: `{command} --dry-run` fails: {last_line(done.stdout)}")
    if "Nothing to be done" not in done.stdout:
        counts = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout, re.MULTILINE))
        jobs = int(counts.get("total", 0)) - int(counts.get("all", 0))
        raise UserError(
            f"{name}: {jobs} jobs have yet to run, and only what is finished is recorded; "
            f"first run `{command}`, or take the stage {name} out of {FILE}"
        )


def dvc(*arguments: str) -> None:
    done = call([sys.executable, "-m", "dvc", *arguments])
    if done.returncode:
        raise UserError(f"dvc {arguments[0]} fails: {last_line(done.stdout)}")


def call(command: Iterable[str | Path]) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(command), encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


def last_line(text: str) -> str:
    """Return the last informative line, without the lines that DVC adds about support."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "dvc.org" not in line]
    errors = [line for line in lines if re.match(r"(ERROR|error)\b", line)]
    return (errors or lines or ["no output"])[-1]


def arguments() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    parser.add_argument("--configfile", default="config.yaml", help="study file")
    parser.add_argument("--push", action="store_true", help="also push the snapshot to DVC's default remote")
    return parser


if __name__ == "__main__":
    command_line.main(run, arguments())
