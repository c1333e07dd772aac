"""How many jobs a study of 300 cells submits to Slurm: each by itself, with the groups of profiles/slurm, and with
defenses grouped as well, as docs/cluster.md describes for those that take minutes.

Counts what Snakemake says in a dry run of the whole study, and what that dry run costs the main process, which plans
the study before the first submission; needs no Slurm and no plugin. tests/cluster counts what a real Slurm is given for
the tiny study.

    python benchmarks/submissions.py
    python benchmarks/submissions.py --seeds 100      # 10,000 cells
"""

import argparse
import re
import tempfile
from collections import Counter
from pathlib import Path

import yaml
from dry_run import STUDY, copy_project, grown, snakemake
from measured import ROOT, Cost, say, say_machine

PROFILE = ROOT / "profiles/slurm/config.yaml"
DEFENSES = ("defend", "defend_with_finding")
CELLS = "scores-{attack}-seed{seed}"  # the group of the evaluations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", type=int, default=10)
    parser.add_argument("--defenses", type=int, default=9, help="beside `none`")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    say_machine("snakemake")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_project(copy)
        study = grown(
            yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8")),
            options.attacks,
            options.defenses,
            options.seeds,
        )
        (copy / STUDY).write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
        say(f"{options.attacks * (options.defenses + 1) * options.seeds:,} cells")
        profile = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
        single = None
        for name, groups in (
            ("each job by itself", {}),
            ("profiles/slurm", profile["groups"]),
            ("defenses grouped too", {**profile["groups"], **dict.fromkeys(DEFENSES, CELLS)}),
        ):
            found, cost = submissions(copy, {**profile, "groups": groups})
            single = single or found.total()
            report(name, found, single, cost)


def submissions(folder: Path, profile: dict) -> tuple[Counter, Cost]:
    """Return what a study that has not begun submits, by rule or group, and what the dry run cost."""
    apart = {key: value for key, value in profile.items() if value and not key.startswith(("executor", "slurm-"))}
    (folder / "profile").mkdir(exist_ok=True)
    (folder / "profile/config.yaml").write_text(yaml.safe_dump(apart, sort_keys=False), encoding="utf-8")
    cost = snakemake(folder, "-n", "--forceall", "--workflow-profile", "profile", "--configfile", STUDY)
    return count(cost.output), cost


def count(dry_run: str) -> Counter:
    """Count groups, and jobs that are in none: what is indented belongs to a group, a `localrule` stays at home."""
    groups = re.findall(r"^\[.*\] Group job (\S+)", dry_run, re.MULTILINE)
    single = re.findall(r"^rule (\w+):", dry_run, re.MULTILINE)
    kinds = [f"group {group.split('-attack')[0]}" for group in groups]
    return Counter(kinds + [rule for rule in single if rule != "all"])


def report(name: str, found: Counter, single: int, cost: Cost) -> None:
    """Print a line; `single` is the number of jobs where each is submitted by itself."""
    parts = ", ".join(f"{rule} {number}" for rule, number in found.most_common())
    say(f"{name}: {found.total()} ({parts}), {found.total() / single:.0%}; "
        f"planned in {cost.cpu:.1f} s of the processor, at most {cost.memory:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
