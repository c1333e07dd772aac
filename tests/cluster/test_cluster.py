"""The tiny study through profiles/slurm on a real Slurm, disturbed on purpose; its results are those of a local run.

In one run: a job is preempted, one is cancelled from outside, one meets its time limit, and while that one waits for
its end the controller is killed and started again. `make cluster-test` prepares what this needs and runs it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import harness
import pytest
import slurm as tools
import yaml

pytestmark = pytest.mark.cluster
PYTHON = harness.ROOT / ".venvs/cluster/bin/python"
RESULTS = Path("results/tiny")
LIMIT = 1500  # seconds that the run may take, on a busy machine
TO_SACCT = "Falling back to 'sacct'"  # Snakemake's words when no answer comes before a question,
UNANSWERED = "could not check status of job"  # and, with --verbose, when none comes to it
QUIET = 15  # seconds without another job, after which Snakemake has nothing more to submit

# Three data sets, stored pictures, pools, clean model, its score, summary; per attack trigger with poison, three models,
# scores.
SUBMITTED = 8 + 2 * 5

PREEMPTED = "rule_clean_model_wildcards_0"
CANCELLED = "rule_backdoored_model_wildcards_badnet_0"
TIMED_OUT = "rule_defend_wildcards_badnet_0_finetune"


@dataclass
class Run:
    """What happened.

    Attributes:
        project: the study's project.
        output: what Snakemake said.
        code: its exit code.
        jobs: every job of Slurm's at the end.
        told: events by name.
    """

    project: Path
    output: str = ""
    code: int | None = None
    jobs: list[dict[str, str]] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)

    def of(self, comment: str) -> list[dict[str, str]]:
        """Return the jobs of one of Snakemake's, in the order of submission."""
        return sorted((job for job in self.jobs if job["comment"] == comment), key=lambda job: int(job["id"]))


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tools.Slurm]:
    if tools.missing():
        pytest.skip(f"not installed: {', '.join(tools.missing())}; `make cluster-test` as root installs them")
    if not PYTHON.is_file():
        pytest.skip(f"{PYTHON} is missing; `make cluster-test` makes it")
    running = tools.Slurm(tmp_path_factory.mktemp("slurm"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def study() -> str:
    """The tiny study, with trainings long enough to be met in the middle."""
    longer = {"pretraining.epochs": 4, "poisoning.epochs": 4, "defenses.finetune.training.epochs": 8}
    return harness.study(harness.ROOT, longer)


@pytest.fixture(scope="module")
def local_run(slurm: tools.Slurm, study: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The same study on this machine alone; it runs while the cluster waits."""
    project = harness.new_project(tmp_path_factory.mktemp("local") / "project")
    (project / harness.STUDY).write_text(study)
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(lambda: harness.finish(project) or project)


@pytest.fixture(scope="module")
def local(local_run: Future[Path]) -> Path:
    """A project in which the study has run on this machine alone."""
    return local_run.result()


@pytest.fixture(scope="module")
def disturbed(slurm: tools.Slurm, study: str, local_run: Future[Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A project in which the study has run on the cluster, with all that can happen there."""
    run = Run(harness.new_project(tmp_path_factory.mktemp("cluster") / "project"))
    (run.project / harness.STUDY).write_text(study)
    shorten_waits(run.project)
    path = os.pathsep.join([str(PYTHON.parent), slurm.environment["PATH"]])  # as activating the environment does
    written = run.project / "snakemake.log"
    with written.open("w") as output:
        process = subprocess.Popen(
            [PYTHON, "-m", "snakemake", "--workflow-profile", "profiles/slurm", "--verbose", "--configfile", harness.STUDY],
            cwd=run.project, env=harness.environment(**slurm.environment | {"PATH": path}), stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        try:
            disturb(run, slurm, process, time.monotonic() + LIMIT)
        finally:
            run.output = log(run)
            end(process)
    run.output, run.code, run.jobs = log(run), process.returncode, slurm.jobs()
    return run


def shorten_waits(project: Path) -> None:
    """Ask the status more often than is right for a cluster that others use; the rest of the profile stays."""
    path = project / "profiles/slurm/config.yaml"
    profile = yaml.safe_load(path.read_text())
    profile |= {"slurm-init-seconds-before-status-checks": 2, "seconds-between-status-checks": 2, "latency-wait": 20}
    path.write_text(yaml.safe_dump(profile | {"slurm-keep-successful-logs": True}, sort_keys=False))


def end(process: subprocess.Popen) -> None:
    """End Snakemake; it may wait for Slurm for ever."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                continue


# --- what is done to the run ------------------------------------------------------------------------------------------


def disturb(run: Run, slurm: tools.Slurm, process: subprocess.Popen, deadline: float) -> None:
    """Meet three jobs in the middle of their training, each in its own way; return when Snakemake has ended."""

    def until(what: str, found: Callable[[], object], pause: float = 0.5) -> object:
        while not (value := found()):
            assert process.poll() is None, f"Snakemake ended while the test waited for {what}: {last(run)}"
            assert time.monotonic() < deadline, f"no {what} within {LIMIT} s: {last(run)}"
            time.sleep(pause)
        return value

    def freeze(script: str, folder: str, comment: str) -> str:
        """Stop the training that writes a folder; return its Slurm job. What Slurm sends to end it also wakes it."""
        training = until(f"training of {folder}", lambda: harness.in_training(run.project, script, folder), 0.02)
        os.kill(training, signal.SIGSTOP)
        variables = Path(f"/proc/{training}/environ").read_bytes().decode().split("\0")
        run.told["its GPUs"] = dict(v.split("=", 1) for v in variables if "=" in v).get("SLURM_STEP_GPUS", "")
        return until(comment, lambda: next((j["id"] for j in slurm.jobs() if j["comment"] == comment), None))

    def state(job: str) -> str:
        return next(j["state"] for j in slurm.jobs() if j["id"] == job)

    job = freeze("pretrain", f"{RESULTS}/clean/seed0/model", PREEMPTED)
    slurm.call("sbatch", "--partition=urgent", "--gres=gpu:2", f"--chdir={slurm.folder}", "--wrap=true")
    until("preemption", lambda: state(job) == "PENDING")
    run.told["preempted"] = job
    for waiting in [j["id"] for j in slurm.jobs() if j["state"] == "PENDING"]:  # Slurm may have preempted others too
        slurm.call("scontrol", "update", f"JobId={waiting}", "StartTime=now")  # and waits two minutes by itself

    job = freeze("pretrain", f"{RESULTS}/badnet/seed0/model", CANCELLED)
    slurm.call("scancel", job)
    run.told["cancelled"] = job

    def alone(job: str) -> bool:
        """Tell whether nothing else has run or waited for a while: a controller that is killed forgets the last second,
        and a step that ended in it blocks the next one of its job."""
        for _ in range(QUIET):
            if any(j["id"] != job and j["state"] in ("RUNNING", "PENDING", "COMPLETING") for j in slurm.jobs()):
                return False
            time.sleep(1)
        return True

    job = freeze("defend", f"{RESULTS}/badnet/seed0/finetune/model", TIMED_OUT)
    until("end of all other jobs", lambda: alone(job))
    # A question to squeue that is under way is repeated, up to 200 times, without sacct: then the controller dies again.
    while TO_SACCT not in log(run):
        known = len(log(run))
        slurm.kill_controller()
        until(
            "question that nobody answers", lambda known=known: TO_SACCT in log(run) or UNANSWERED in log(run)[known:]
        )
        time.sleep(5)  # Snakemake goes on asking
        slurm.start_controller()
        until("controller", lambda: job in slurm.call("squeue", "--noheader", "--format=%i", check=False).split())
    slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    until("time limit", lambda: state(job) in ("TIMEOUT", "COMPLETING"))
    run.told["timed out"] = job
    until_end = max(1, deadline - time.monotonic())
    try:
        process.wait(until_end)
    except subprocess.TimeoutExpired:
        pytest.fail(f"Snakemake has not ended within {LIMIT} s: {last(run)}")


def log(run: Run) -> str:
    return (run.project / "snakemake.log").read_text()


def last(run: Run) -> str:
    return log(run)[-3000:]


# --- tests ------------------------------------------------------------------------------------------------------------


def test_the_study_finishes(disturbed):
    assert disturbed.code == 0, disturbed.output[-3000:]
    again = harness.snakemake(disturbed.project, "-n")
    assert "Nothing to be done" in again.stdout, again.stdout


def test_results_are_those_of_a_local_run(disturbed, local):
    names = [path.relative_to(local) for path in (local / RESULTS).rglob("*") if path.name in
             ("cells.csv", "scores.json", "open_clip_model.safetensors", "manifest.parquet", "poisoned.tar")]  # fmt: skip
    assert len(names) == 1 + 9 + 7 + 2 * 2
    for name in names:
        assert (disturbed.project / name).read_bytes() == (local / name).read_bytes(), name


def test_a_preempted_job_waits_again_and_goes_on_from_its_checkpoint(disturbed):
    jobs = disturbed.of(PREEMPTED)
    assert [(job["id"], job["state"]) for job in jobs] == [(disturbed.told["preempted"], "COMPLETED")]
    assert resumed(disturbed, "clean-seed0-model")


def test_a_cancelled_job_comes_back_and_goes_on_from_its_checkpoint(disturbed):
    first, second = disturbed.of(CANCELLED)
    assert (first["id"], first["state"], second["state"]) == (disturbed.told["cancelled"], "CANCELLED", "COMPLETED")
    assert resumed(disturbed, "badnet-seed0-model")


def test_a_job_at_its_time_limit_comes_back_with_more_time_and_memory(disturbed):
    first, second = disturbed.of(TIMED_OUT)
    assert (first["id"], first["state"], second["state"]) == (disturbed.told["timed out"], "TIMEOUT", "COMPLETED")
    assert (second["limit"], second["memory"]) == ("8:00:00", "62.50G"), "twice 240 minutes and 32000 MB"
    assert resumed(disturbed, "badnet-seed0-finetune-model")


def test_short_jobs_are_submitted_together(disturbed):
    groups = {job["comment"]: job for job in disturbed.jobs if job["comment"].startswith("rule_scores-")}
    assert set(groups) == {f"rule_scores-{attack}-seed0_evaluate_floor" for attack in harness.ATTACKS}
    for job in groups.values():
        asked = (job["limit"], job["gpus"], job["cpus"], job["memory"])
        assert asked == ("1:00:00", "gres:gpu:1", "4", "16000M"), "four evaluations of 15 minutes, one at a time"
    assert len({job["comment"] for job in disturbed.jobs} - {"(null)"}) == SUBMITTED


def test_jobs_that_train_get_a_gpu_and_drawn_triggers_none(disturbed):
    gpus = {job["comment"]: job["gpus"] for job in disturbed.jobs}
    assert gpus[PREEMPTED] == gpus[CANCELLED] == gpus[TIMED_OUT] == "gres:gpu:1"
    assert gpus["rule_poison-badnet-seed0_poison_trigger"] == "N/A"
    assert disturbed.told["its GPUs"] in ("0", "1")


def resumed(run: Run, log: str) -> bool:
    """Tell whether the last attempt of a job went on from a step beyond the first."""
    found = re.search(r"resumed at step (\d+) of", (run.project / RESULTS / f"logs/{log}.log").read_text())
    return bool(found) and int(found.group(1)) > 0
