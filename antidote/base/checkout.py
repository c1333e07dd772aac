"""Which code a job runs: the Git commit of the checkout, and a fingerprint of its script and methods.

Jobs write both to `cost.json`. No later job reads that file, so that neither is a part of the identity of a job.
"""

import subprocess
import sys
from pathlib import Path

from antidote.base.fingerprint import ROOT, edited, remembered
from antidote.base.machine import process_start
from antidote.base.registry import KINDS

CODE = ("antidote", "data", "rules", "scripts", "Snakefile")  # what decides a figure; pages and studies do not
CHANGES = "+changes"
NONE = "(initial)"  # what Git names the commit of a checkout that has none
SOURCES = Path(".snakemake", "antidote-sources.json")  # the workflow's memory of fingerprints, in the folder of a job


def commit() -> str:
    """Return the Git commit of the checkout, 40 hex digits; empty outside of a checkout, before the first commit and
    without Git.

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
    if found in ("", NONE):
        return ""
    return found + CHANGES if any(not line.startswith("#") for line in lines) else found


def code() -> str:
    """Return the fingerprint of the running script and of the methods that it has loaded, 16 hex digits.

    Comments and docstrings do not count. Empty if no script of `scripts/` runs, and if a source that the script or a
    method reaches was edited or removed since the process started: it may have loaded the earlier code.
    """
    script = getattr(sys.modules["__main__"], "__spec__", None)
    if script is None or not script.name.startswith("scripts."):
        return ""
    places = {place.partition(":")[0] for table in KINDS.values() for place in table.values()}
    found = remembered(SOURCES, script.name, *sorted(places & set(sys.modules)))
    return "" if edited(process_start()) or _removed() else found


def _removed() -> bool:
    """Return whether the source of a loaded module is gone; a fingerprint made now does not cover that module."""
    files = [Path(file) for module in sys.modules.values() if (file := getattr(module, "__file__", None))]
    return not all(file.is_file() for file in files if file.is_relative_to(ROOT))
