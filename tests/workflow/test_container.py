"""Jobs in an image: `--sdm apptainer`, with a stand-in for the command `apptainer` that starts the jobs on this machine."""

from __future__ import annotations

import os

from harness import new_project, snakemake

# Called as `apptainer exec --home FOLDER [arguments] IMAGE bash -c COMMAND`.
STAND_IN = """#!/bin/sh
[ "$1" = --version ] && { echo "apptainer version 1.3.6"; exit; }
echo "$*" | head -n 1 >> "$STARTS"
while [ "$1" != bash ]; do shift; done
exec "$@"
"""
POOLS = "results/tiny/pools/defense.parquet"


def test_jobs_start_in_the_image(tmp_path):
    project, starts = new_project(tmp_path / "project"), tmp_path / "starts"
    binary = tmp_path / "bin" / "apptainer"
    binary.parent.mkdir()
    binary.write_text(STAND_IN)
    binary.chmod(0o755)
    more = {"PATH": f"{binary.parent}{os.pathsep}{os.environ['PATH']}", "STARTS": str(starts), "OMP_NUM_THREADS": "1"}
    done = snakemake(project, POOLS, "--cores", "1", "--sdm", "apptainer", jobs=more)
    assert done.returncode == 0 and (project / POOLS).exists(), done.stdout
    ran = starts.read_text().splitlines()
    assert len(ran) == 2 and all(f"--home {project}" in line and " antidote.sif bash -c" in line for line in ran), ran
    assert "scripts.dataset" in ran[0] and "scripts.pools" in ran[1]

    # The other deployment is another software environment, so that Snakemake would run the jobs again, unless told not to.
    again = snakemake(project, POOLS, "-n")
    assert "oftware environment" in again.stdout, again.stdout
    kept = snakemake(project, POOLS, "-n", "--rerun-triggers", "code", "input", "mtime", "params")
    assert "Nothing to be done" in kept.stdout, kept.stdout
