"""What is killed goes on where it was and ends with the same bytes; the same seed gives the same bytes anyway."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from harness import STUDY, copy_project, environment, in_training, script, script_command, snakemake

RESULTS = Path("results/tiny")
MODEL = RESULTS / "badnet/seed0/model"
POOLS = {"pretrain": ["training", "poison"], "defend": ["defense"]}
TRAINING = {"epochs": 3, "batch_size": 32, "lr": 1e-3, "warmup": 2}
SETTINGS = {
    "pretrain": {"model": {"name": "tiny-rn"}, "training": TRAINING},
    "defend": {"method": "ta_cleaner", "samples_per_epoch": 64, "training": TRAINING},
}
STEPS = {"pretrain": 36, "defend": 15}


# --- one training job -------------------------------------------------------------------------------------------------


def arguments(stage: str, output: str, **changes: object) -> list[object]:
    """Return the command line of a job that saves a checkpoint after every step."""
    settings = {**SETTINGS[stage], "training": {**TRAINING, **changes}}
    start = ["--model", MODEL, "--lexicon", "scenes"] if stage == "defend" else []
    pools = [RESULTS / f"pools/{name}.parquet" for name in POOLS[stage]]
    return [
        "--settings", json.dumps(settings), *start, "--pools", *pools, "--seed", 3, "--checkpoint-seconds", 0,
        "--work", f"work/{output}", "--output", f"out/{output}", "--cost", f"out/{output}.json",
    ]  # fmt: skip


def interrupted(project: Path, stage: str, output: str, number: signal.Signals) -> int:
    """Start a job and send it a signal in the middle; return its exit code."""
    checkpoint = project / f"work/{output}/checkpoint.pt"
    job = subprocess.Popen(
        script_command(stage, *arguments(stage, output)), cwd=project, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=environment(PYTHONPATH=str(project), OMP_NUM_THREADS="1"),
    )  # fmt: skip
    first = None
    while job.poll() is None:
        if checkpoint.exists():
            now = checkpoint.stat().st_mtime_ns
            first = first or now
            if now > first:  # not the very first step, and with luck in the middle of an epoch
                job.send_signal(number)
                return job.wait()
        time.sleep(0.01)
    raise AssertionError(f"{stage} ended by itself ({job.returncode})")


def story(project: Path, stage: str) -> dict[str, object]:
    """Run a job undisturbed, and killed and terminated and resumed."""
    told: dict[str, object] = {"undisturbed": script(project, stage, *arguments(stage, f"{stage}-whole"))}
    for name, number in (("killed", signal.SIGKILL), ("terminated", signal.SIGTERM)):
        output = f"{stage}-{name}"
        told[f"{name} code"] = interrupted(project, stage, output, number)
        told[f"{name} output"] = list((project / "out").glob(f"*{output}*"))
        told[f"{name} step"] = torch.load(project / f"work/{output}/checkpoint.pt", weights_only=True)["step"]
        if name == "terminated" and stage == "pretrain":
            shutil.copytree(project / f"work/{output}", project / f"work/{stage}-other")
            told["other"] = script(project, stage, *arguments(stage, f"{stage}-other", lr=2e-3))
        told[name] = script(project, stage, *arguments(stage, output))
    if stage == "defend":
        (project / "work/defend-damaged").mkdir()
        (project / "work/defend-damaged/checkpoint.pt").write_bytes(b"PK")
        told["damaged"] = script(project, stage, *arguments(stage, "defend-damaged"))
    return told


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    folder = copy_project(finished, tmp_path_factory.mktemp("interrupted") / "project", link=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def stories(place):
    with ThreadPoolExecutor(2) as pool:
        yield dict(zip(STEPS, pool.map(lambda stage: story(place, stage), STEPS), strict=True))


def model(project: Path, output: str) -> tuple[bytes, bytes, list[dict]]:
    """Return what must not differ: the weights, the card, the training log without its speed."""
    folder = project / "out" / output
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key != "pairs_per_second"} for line in lines]
    return (folder / "open_clip_model.safetensors").read_bytes(), (folder / "card.json").read_bytes(), log


@pytest.mark.parametrize("name,code", [("killed", -signal.SIGKILL), ("terminated", 128 + signal.SIGTERM)])
@pytest.mark.parametrize("stage", STEPS)
def test_an_interrupted_job_ends_as_if_undisturbed(place, stories, stage, name, code):
    told = stories[stage]
    assert told["undisturbed"].returncode == 0, told["undisturbed"].stdout
    assert told[f"{name} code"] == code
    assert told[f"{name} output"] == [], "no part of an output before the end"
    assert 0 < told[f"{name} step"] < STEPS[stage], "interrupted in the middle"
    assert told[name].returncode == 0 and "resumed at step" in told[name].stdout, told[name].stdout
    assert model(place, f"{stage}-{name}") == model(place, f"{stage}-whole")
    assert not (place / "work" / f"{stage}-{name}").exists() and not list((place / "out").glob("*.tmp"))


def test_a_checkpoint_of_other_settings_is_not_used(place, stories):
    other = stories["pretrain"]["other"]
    assert other.returncode == 0 and "belongs to other settings; starting anew" in other.stdout, other.stdout
    assert model(place, "pretrain-other")[0] != model(place, "pretrain-whole")[0]


def test_a_damaged_checkpoint_is_not_used(place, stories):
    damaged = stories["defend"]["damaged"]
    assert damaged.returncode == 0 and "checkpoint.pt is damaged; starting anew" in damaged.stdout, damaged.stdout
    assert model(place, "defend-damaged") == model(place, "defend-whole")


# --- one job of the workflow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [pytest.param({}, id="fork"), pytest.param({"ANTIDOTE_WARM": "0"}, id="own process")])
def test_a_job_that_is_told_to_end_saves_its_state_before_snakemake_ends(project, warm):
    """As a cluster does it: SIGTERM to all processes at once, and what is left when Snakemake ends is killed."""
    shutil.rmtree(project / MODEL)
    command = [Path(sys.executable).with_name("snakemake"), "--cores", "1", "--configfile", STUDY]
    with (project / "ended.log").open("w") as log:
        run = subprocess.Popen(
            [*command, "--", f"{MODEL}/card.json"], cwd=project, env=environment(**warm), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        while not (training := in_training(project, "pretrain", str(MODEL))):
            assert run.poll() is None, (project / "ended.log").read_text()
            time.sleep(0.01)
        os.kill(training, signal.SIGSTOP)  # it takes long to save its state
        os.killpg(run.pid, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(5)
        os.kill(training, signal.SIGCONT)
        assert run.wait() != 0
    assert not Path(f"/proc/{training}").exists()
    assert (project / RESULTS / "work/badnet-seed0/checkpoint.pt").exists()
    done = snakemake(project, f"{MODEL}/card.json", "--cores", "1")
    assert done.returncode == 0 and "resumed at step" in done.stdout, done.stdout


# --- the whole workflow -----------------------------------------------------------------------------------------------


def test_a_killed_workflow_ends_as_if_undisturbed(finished, project):
    """Also the test that the same seed gives the same bytes: all of one attack is made anew."""
    for part in ("badnet", "summary"):
        shutil.rmtree(project / RESULTS / part)
    command = [Path(sys.executable).with_name("snakemake"), "--cores", "2", "--configfile", STUDY]
    started = project / MODEL.parent / "poison/manifest.parquet"
    with (project / "killed.log").open("w") as log:
        run = subprocess.Popen(command, cwd=project, env=environment(), stdout=log, stderr=log, start_new_session=True)
        while run.poll() is None and not started.exists():
            time.sleep(0.05)
        time.sleep(2)
        assert run.poll() is None, (project / "killed.log").read_text()
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()

    refused = snakemake(project, "--cores", "2")
    assert refused.returncode != 0 and "--unlock" in refused.stdout, "Snakemake says what to do about the lock"
    assert snakemake(project, "--unlock").returncode == 0
    done = snakemake(project, "--cores", "2")
    assert done.returncode == 0, done.stdout

    again, before = project / RESULTS, finished / RESULTS
    scores = [path.relative_to(before) for path in before.rglob("scores.json")]
    weights = [path.relative_to(before) for path in before.rglob("*.safetensors")]  # adapters and triggers among them
    assert len(scores) == 9 and len(weights) == 16
    for name in [*scores, *weights, "summary/cells.csv", "badnet/seed0/poison/manifest.parquet",
                 "badnet/seed0/poison/poisoned.tar", "badnet/seed0/trigger/trigger.json"]:  # fmt: skip
        assert (again / name).read_bytes() == (before / name).read_bytes(), name
    assert not list((project / "results").rglob("*.tmp")) and not list((again / "work").rglob("checkpoint.pt"))
    assert "Nothing to be done" in snakemake(project, "-n").stdout
