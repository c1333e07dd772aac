"""What Snakemake's local scheduling lacks: one pending look at the jobs at a time, and a limit of GPU jobs that stays.

`one_timer` is a mend for as long as Snakemake needs it. After every look at the jobs that are ready, Snakemake (9.27)
starts a timer for the next look, because its limit of jobs per second may be free by then. Every finished job is a
look, too: each starts a chain of timers of its own, which never ends. After some hundred jobs there are some hundred
looks per second, each of which goes through all jobs that are ready, and Snakemake takes a core away from the jobs.
"""

from __future__ import annotations

import threading
from typing import Any

from antidote.study.jobs import has_gpu


def one_timer(scheduler: Any) -> None:
    """Let a scheduler class have one pending timer per delay; a class without such timers is left as it is."""
    name = "_schedule_reevalutation"
    if not hasattr(scheduler, name):
        return
    lock = threading.Lock()

    def schedule(self: Any, delay: float) -> None:
        with lock:
            pending = self.__dict__.setdefault("_pending_delays", set())
            if delay in pending:
                return
            pending.add(delay)

        def look() -> None:
            with lock:
                pending.discard(delay)
            self._open_jobs.release()

        threading.Timer(delay, look).start()

    setattr(scheduler, name, schedule)


def one_gpu_job(scheduler: Any) -> None:
    """Let a scheduler class start one GPU job at a time on this machine's GPUs, unless another number is given.

    The number of profiles/default alone is not enough: any other `--resources` on the command line replaces the whole
    list. Snakemake knows the executor when the scheduler is made, after it has read the rules. An executor that submits
    jobs to a cluster has no limit here. `--jobs` says nothing about the executor.
    """
    make = scheduler.__init__

    def limited(self: Any, workflow: Any, *rest: Any, **named: Any) -> None:
        if workflow.local_exec and has_gpu() and "gpu" not in workflow.global_resources:
            workflow.register_resource("gpu", 1)
        make(self, workflow, *rest, **named)

    scheduler.__init__ = limited
