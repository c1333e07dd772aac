"""Which code a job runs: the Git commit of the checkout, and a fingerprint of its script and methods.

Jobs write both to `cost.json`. No later job reads that file, so that neither is a part of the identity of a job.
"""

import subprocess
import sys
from pathlib import Path

from antidote.base.fingerprint import ROOT, remembered
from antidote.base.registry import KINDS

CODE = ("antidote", "data", "rules", "scripts", "Snakefile")  # what decides a figure; pages and studies do not
CHANGES = "+changes"
SOURCES = Path(".snakemake", "antidote-sources.json")  # the workflow's memory of fingerprints, in the folder of a job


def commit() -> str:
    """Return the Git commit of the checkout, 40 hex digits; empty outside of a checkout and without Git.

    `+changes` follows the digits if a tracked file of the code differs from the commit.
    """
    if not (ROOT / ".git").exists():  # an installed package may lie in the checkout of another project
        return ""
    status = ["status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", *CODE]
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *status]  # without locks: other jobs ask at the same time
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    except OSError:
        return ""
    lines = done.stdout.splitlines()
    found = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    return found + CHANGES if found and any(not line.startswith("#") for line in lines) else found


def code() -> str:
    """Return the fingerprint of the running script and of the methods that it has loaded, 16 hex digits.

    Comments and docstrings do not count. Empty if no script of `scripts/` runs.
    """
    script = getattr(sys.modules["__main__"], "__spec__", None)
    if script is None or not script.name.startswith("scripts."):
        return ""
    places = {place.partition(":")[0] for table in KINDS.values() for place in table.values()}
    return remembered(SOURCES, script.name, *sorted(places & set(sys.modules)))
