"""Snakemake's scheduler: one pending timer, however many jobs have finished, and one GPU job on one machine."""

import threading
import time
from types import SimpleNamespace

import pytest

from antidote.study.scheduling import one_gpu_job, one_timer


class Scheduler:
    def __init__(self):
        self._open_jobs = threading.Semaphore(0)

    def _schedule_reevalutation(self, delay):
        raise AssertionError("replaced")


def looks(scheduler, seconds):
    """Return how many timers of `scheduler` have ended within some seconds."""
    end, count = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        count += scheduler._open_jobs.acquire(timeout=left)
    return count


def test_many_looks_start_one_timer_per_delay():
    class Mine(Scheduler):
        pass

    one_timer(Mine)
    first, second = Mine(), Mine()
    for _ in range(20):
        first._schedule_reevalutation(0.05)
    first._schedule_reevalutation(0.1)
    second._schedule_reevalutation(0.05)
    assert looks(first, 0.5) == 2 and looks(second, 0.1) == 1
    first._schedule_reevalutation(0.05)
    assert looks(first, 0.5) == 1, "the next look has a timer again"


def test_snakemake_has_what_is_replaced_and_another_class_is_left_alone():
    """Fails where Snakemake has renamed or mended it: then the module has had its time."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    assert hasattr(JobScheduler, "_schedule_reevalutation")
    one_timer(threading.Thread)
    assert not hasattr(threading.Thread, "_schedule_reevalutation")


@pytest.mark.parametrize(
    ("local", "gpus", "given", "limit"),
    [
        (True, "0,1", {}, 1),
        (True, "0,1", {"mem_mb": 64000}, 1),
        (True, "0,1", {"gpu": 2}, 2),
        (True, "", {}, None),
        (False, "0,1", {}, None),
    ],
)
def test_one_gpu_job_where_the_executor_is_this_machine(monkeypatch, local, gpus, given, limit):
    """Whatever `--jobs` says: with `--cores` it is a limit of nothing, and no sign of a cluster."""

    class Mine:
        def __init__(self, workflow, *rest, greedy):
            self.resources = dict(workflow.global_resources)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    workflow = SimpleNamespace(local_exec=local, nodes=8, global_resources=dict(given))
    workflow.register_resource = workflow.global_resources.__setitem__
    one_gpu_job(Mine)
    assert Mine(workflow, "plugin", greedy=None).resources.get("gpu") == limit
