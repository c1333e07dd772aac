"""GPUs on one machine: jobs at the same time land on different ones, and a killed job frees its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed import run

from antidote.base import devices
from antidote.base.errors import UserError
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import create_model, device
from antidote.study.jobs import has_gpu
from antidote.training import parallel

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


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    """A process that has claimed nothing yet, and a torch that sees no GPU, whatever this machine has."""
    for name in (devices.VISIBLE, devices.NAMED):
        monkeypatch.delenv(name, raising=False)
    held = []
    monkeypatch.setattr(devices, "_ASKED", [])
    monkeypatch.setattr(devices, "_HELD", held)
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    yield
    for slot in held:
        slot.close()


@pytest.mark.parametrize("name", [devices.VISIBLE, devices.NAMED])
@pytest.mark.parametrize(("named", "said"), [("1", "1"), ("1,0", r"(0|1|1, 0)")])
def test_a_named_gpu_that_torch_cannot_use_is_refused_every_time(no_gpu, monkeypatch, name, named, said):
    monkeypatch.setenv(devices.VISIBLE, "")  # restored at the end, also where the claim sets it
    monkeypatch.delenv(devices.VISIBLE)
    monkeypatch.setenv(name, named)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"^GPU {said}: torch cannot use it; .* with `CUDA_VISIBLE_DEVICES=`$"):
            device()


@pytest.mark.parametrize("name", [devices.VISIBLE, devices.NAMED])
@pytest.mark.parametrize("named", ["", "-1"])
def test_a_user_who_names_none_computes_on_the_cpu(no_gpu, monkeypatch, name, named):
    monkeypatch.setenv(name, named)
    assert device().type == "cpu"


def test_a_gpu_that_nobody_names_and_torch_cannot_use_is_a_warning(no_gpu, monkeypatch, tmp_path, caplog):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path)
    devices._warn_of_cpu.cache_clear()
    assert [device().type for _ in range(3)] == ["cpu"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "on the CPU: torch cannot use this machine's GPU; `CUDA_VISIBLE_DEVICES=` says that this is meant"
    ]


def test_a_gpu_that_cannot_be_used_is_no_fault_of_the_model(no_gpu, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "0")
    for _ in range(2):  # as the estimate before a run creates a model twice
        with pytest.raises(UserError, match=r"^GPU 0: "):
            create_model(ModelSettings(name="tiny-vit"), 0)


def test_processes_that_train_together_take_no_cpu_for_a_gpu(no_gpu, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "0,1,2,3")
    monkeypatch.setattr(run, "main", lambda arguments: pytest.fail("started"))
    with pytest.raises(UserError, match=r"^GPU 0, 1, 2, 3: "):
        parallel.start(4)


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
