"""GPUs on one machine: jobs at the same time land on different ones, and a killed job frees its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from antidote.base import devices
from antidote.base.errors import UserError
from antidote.clip.folder import device
from antidote.study.jobs import has_gpu

ROOT = Path(__file__).resolve().parents[3]
JOB = """
import json, os, sys
from antidote.base.devices import claim
names = [claim(int(sys.argv[1])), claim(1)]
print(json.dumps([names, os.environ.get("CUDA_VISIBLE_DEVICES")]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Return what starts a job that takes GPUs and holds them until it is ended."""
    jobs = []

    def begin(count=1, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "SLURM", "TORCHEL"))}
        environment = {"ANTIDOTE_GPUS": "0,1,2", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), **environment}
        job = subprocess.Popen(
            [sys.executable, "-c", JOB, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**clean, **environment},
        )  # fmt: skip
        jobs.append(job)
        (taken, again), visible = json.loads(job.stdout.readline())
        assert again == []
        return job, taken, visible

    yield begin
    for job in jobs:
        job.kill()
        job.communicate()


def test_jobs_at_the_same_time_take_different_gpus(start):
    found = [start()[1:] for _ in range(3)]
    assert found == [(["0"], "0"), (["1"], "1"), (["2"], "2")]


def test_more_jobs_than_gpus_share_them_evenly(start):
    taken = [start()[1][0] for _ in range(7)]
    assert sorted(taken) == ["0", "0", "0", "1", "1", "2", "2"]


def test_a_container_counts_the_gpus_that_it_sees(tmp_path, monkeypatch):
    """It may have the host's GPUs 2 and 5, which CUDA in it calls 0 and 1."""
    for name in ("nvidia2", "nvidia5", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    for name in (devices.VISIBLE, devices.NAMED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path)
    assert devices.devices() == ["0", "1"]
    assert has_gpu()
    monkeypatch.setenv(devices.VISIBLE, "")
    assert not has_gpu()


def test_a_gpu_that_cannot_be_used_is_one_line(monkeypatch):
    monkeypatch.setattr(devices, "claim", lambda: ["1"])
    with pytest.raises(UserError, match=r"^GPU 1: torch cannot use it; see `nvidia-smi -L`"):
        device()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_job_frees_its_gpu(start, number):
    jobs = [start()[0] for _ in range(3)]
    jobs[1].send_signal(number)
    jobs[1].wait()
    assert start()[1] == ["1"]


def test_a_job_may_take_several(start):
    assert start(2)[1:] == (["0", "1"], "0,1")
    assert start(2)[1:] == (["2", "0"], "2,0"), "the free one first"


def test_what_the_environment_names_counts(start):
    assert start(CUDA_VISIBLE_DEVICES="5,GPU-7")[1:] == (["5"], "5")
    assert start(CUDA_VISIBLE_DEVICES="5,GPU-7")[1:] == (["GPU-7"], "GPU-7")
    assert start(CUDA_VISIBLE_DEVICES="GPU-7")[1:] == ([], "GPU-7"), "there is nothing to choose"
    assert start(CUDA_VISIBLE_DEVICES="")[1:] == ([], ""), "a user who wants none"


def test_who_assigns_already_is_not_interfered_with(start):
    assert start(TORCHELASTIC_RUN_ID="1")[1:] == ([], None)
    assert start(2, SLURM_JOB_ID="1", CUDA_VISIBLE_DEVICES="0,1")[1:] == ([], "0,1"), "a job's own GPUs"
    assert start(SLURM_JOB_ID="1", CUDA_VISIBLE_DEVICES="0,1")[1:] == (["0"], "0"), "jobs in an allocation of several"
