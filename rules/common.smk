# The study, and the values that the rules need. This file imports no torch.
import gc
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))

from antidote.base import warm
from antidote.base.errors import UserError
from antidote.base.fingerprint import fingerprint, remember
from antidote.base.settings import read_mapping
from antidote.base.terminal import accept_all_letters
from antidote.study.amounts import LongestFirst
from antidote.study.data_jobs import alternatives
from antidote.study.jobs import Jobs, has_gpu, own_records, prepare_jobs, quick_to_inspect
from antidote.study.scheduling import one_gpu_job, one_timer
from antidote.study.study import Study

# The graph of jobs consists of millions of objects that live until the end. With Python's default thresholds the
# collector walks through them again and again, a quarter of the time of a dry run.
gc.set_threshold(200_000, 20, 100)
remember(Path(".snakemake", "antidote-sources.json"))
prepare_jobs(Path(workflow.basedir))
if workflow.is_main_process:
    from snakemake.scheduling.job_scheduler import JobScheduler

    one_timer(JobScheduler)
    one_gpu_job(JobScheduler)
    own_records()
accept_all_letters(logger.handlers)  # Snakemake's log

# Slurm sends SIGTERM to every process of a job. The shell must wait until the training has saved its state: if the
# shell ended, Snakemake would end too, and Slurm would kill the remaining processes at once.
shell.prefix("set -euo pipefail; trap : TERM; ")


def read_study():
    """Validate the study; an error is reported as one line, not as a traceback."""
    files = workflow.config_settings.configfiles or [Path(workflow.basedir, "config.yaml")]
    names = [os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else str(file) for file in files]
    try:
        for name in names:
            read_mapping(name)  # stricter than Snakemake: reports duplicate keys
        return Study(config, ", ".join(names))
    except UserError as error:
        sys.exit(f"error: {error}")


STUDY = read_study()
jobs = quick_to_inspect(Jobs(STUDY))
layout = jobs.layout
longest_first = quick_to_inspect(LongestFirst(STUDY))

# By default, one GPU job at a time on a machine with a GPU; profiles for clusters change the limit.
GPU = int(has_gpu())


wildcard_constraints:
    **jobs.constraints(),
