"""Which code the jobs behind a cell ran: commits and fingerprints from their `cost.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from antidote.base import checkout
from antidote.base.files import read_json
from antidote.base.fingerprint import fingerprint
from antidote.study.layout import COSTLY, STAGES, Layout

CELL = {"attack", "defense", "seed", "adaptation", "detector"}  # wildcards of the jobs behind a cell
JOBS = [name for name in COSTLY if "seed" in STAGES[name].wildcards and CELL.issuperset(STAGES[name].wildcards)]


def origin(kept: Layout, attack: str, defense: str, seeds: Iterable[str]) -> dict[str, Any]:
    """Return `commit` and `code` of the jobs behind a cell, from trigger and clean model to the scores.

    Args:
        seeds: the seeds of the cell's figures.

    Returns:
        `commit`: all commits, sorted, with `, ` between them; `code`: 16 hex digits over the fingerprints of all jobs;
        `recorded`: true. Empty if a job recorded neither, as in results of an earlier version.
    """
    jobs: set[tuple[str, str]] = set()
    for seed in seeds:
        names = {"attack": attack, "defense": defense, "seed": seed}
        paths = {(stage, path) for stage in JOBS for path in kept.found(stage, "cost", **names)}
        for stage, path in paths | {("evaluate", kept.path("evaluate", "cost", **names))}:
            found = read_json(path) if path.is_file() else {}
            if not isinstance(found, dict) or not found.get("code"):
                return {}
            jobs.add((str(found.get("commit") or ""), f"{stage}={found['code']}"))
    code = hashlib.sha256("\n".join(sorted({code for _, code in jobs})).encode()).hexdigest()[:16]
    return {"commit": ", ".join(sorted({commit for commit, _ in jobs} - {""})), "code": code, "recorded": True}


def present(*methods: str) -> dict[str, str]:
    """Return `commit` and `code` of the checkout as it is now, for jobs that recorded neither.

    Args:
        methods: the modules of attack and defense.
    """
    code = fingerprint("scripts.evaluate", "scripts.defend", "scripts.trigger", *methods)
    return {"commit": checkout.commit(), "code": code}
