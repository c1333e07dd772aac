"""Three rates of UBT on one backdoored model, one after the other: with one search for all, and with one for each.

The default study's data and model, UBT of configs/defenses.yaml. Whether the weights are the same is said as well.

    python benchmarks/sweep.py
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import yaml
from dry_run import STUDY, copy_project, snakemake
from measured import ROOT, run, say, say_machine

RATES = (2.5e-4, 5e-4, 1e-3)
RULE = "defend_with_finding"
WEIGHTS = "open_clip_model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=ROOT / "config.yaml", help="whose data and model are used")
    parser.add_argument("--attack", default="badnet", help="an entry of the study")
    options = parser.parse_args()
    say_machine("torch", "open_clip")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder, "project"), yaml.safe_load(options.study.read_text(encoding="utf-8")), options.attack)


def measure(project: Path, study: dict, attack: str) -> None:
    project.mkdir()
    copy_project(project)
    ubt = yaml.safe_load((ROOT / "configs/defenses.yaml").read_text(encoding="utf-8"))["defenses"]["ubt"]
    ubt["training"]["lr"] = list(RATES)
    study |= {"study": "sweep", "attacks": {attack: study["attacks"][attack]}, "defenses": {"ubt": ubt}, "seeds": [0]}
    (project / STUDY).write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    place = project / "results/sweep" / attack / "seed0"
    models = [place / f"ubt_lr{rate:g}" / "model" / WEIGHTS for rate in RATES]
    targets = [str(model.relative_to(project)) for model in models]
    snakemake(project, "--configfile", STUDY, "--cores", "1", "--quiet", "all", "--", *targets)
    again = ("--configfile", STUDY, "-n", "--printshellcmds", "--forcerun", RULE, "--", *targets)
    said = snakemake(project, *again).output
    commands = re.findall(r"(OMP_NUM_THREADS=\S+ python -m antidote\.base\.warm defend .*)$", said, re.MULTILINE)
    if len(commands) != len(RATES):
        sys.exit(f"{len(commands)} commands instead of {len(RATES)}:\n{said[-2000:]}")
    each, alone = sweep(project, commands, models, search_anew=True)
    once, together = sweep(project, commands, models, search_anew=False)
    same = "the same weights" if alone == together else "other weights"
    say(f"{len(RATES)} rates: a search for each {each:.1f} s, one search {once:.1f} s: {each / once:.2f} times, {same}")


def sweep(project: Path, commands: list[str], models: list[Path], search_anew: bool) -> tuple[float, list[str]]:
    """Run the commands; return seconds and the hashes of the models."""
    _forget(project)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    start = time.perf_counter()
    for command in commands:
        if search_anew:
            _forget(project)
        run(["bash", "-c", command], project, {"PYTHONPATH": str(project), "PATH": path})
    return time.perf_counter() - start, [hashlib.sha256(model.read_bytes()).hexdigest() for model in models]


def _forget(project: Path) -> None:
    for folder in project.glob("results/sweep/work/common-*"):
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
