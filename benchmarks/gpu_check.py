"""What a GPU does with this project, in one run of at most eight minutes: results, speed, memory, waits, a whole study.

Needs no network and no data: pairs are synthetic, weights random. Each part runs in a process of its own, within a time
budget of its own, so a part that fails or takes too long leaves the others in place. Ratios are of one run: open_clip's
trainer gets the shards, batch and workers of ours, and the bare passes the same model and batch. The tests that need a
GPU run first; without a GPU they are skipped, and no line is found that waits for it. Writes
`gpu-check.json` and `gpu-check.md`. Without a GPU, `--small` runs the same parts on tiny models.

    python benchmarks/gpu_check.py --output results/gpu-check
    python benchmarks/gpu_check.py --small --parts bare evaluation
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from measured import ROOT, heading, machine, say

PACKAGES = ("torch", "torchvision", "open_clip")
TOTAL = 480  # seconds of all parts
FULL = {
    "models": ["RN50", "ViT-B-32"], "batch": 256, "precision": "bf16", "pictures": 4096, "epochs": 8, "workers": 8,
    "steps": 10, "defense_batch": 64, "drawn": 256, "size": 224, "read": 24,
}  # fmt: skip
SMALL = {
    "models": ["tiny-rn", "tiny-vit"], "batch": 8, "precision": "fp32", "pictures": 48, "epochs": 2, "workers": 1,
    "steps": 2, "defense_batch": 4, "drawn": 32, "size": 32, "read": 2,
}  # fmt: skip
DEFENSES = ["cleanclip", "ta_cleaner", "par", "cbpt", "rvpt"]
STUDY = "tests/studies/tiny.yaml"
TESTS = "tests/unit/test_gpu.py"
BARE = "bare forward and backward pass"

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-check"), help="folder of the two files")
    parser.add_argument("--small", action="store_true", help="tiny models, few pictures: for a CPU")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--one", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = Namespace(**(SMALL if options.small else FULL), shards=options.shards)
    sizes.workers = min(sizes.workers, max(1, (os.cpu_count() or 1) - 1))
    if options.one:
        say(json.dumps(list(PARTS[options.one][0](sizes))))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine(*PACKAGES), "settings": vars(sizes) | {"shards": None}, "parts": {}}
        say(heading(found["machine"], *PACKAGES))
        start = time.perf_counter()
        slower = 10 if options.small else 1  # than an H100 and 16 cores; the CPU may be busy
        for name in options.parts:
            left = slower * TOTAL - (time.perf_counter() - start)
            found["parts"][name] = one(name, options, Path(folder), min(slower * PARTS[name][1], left))
            say(f"{name}: {found['parts'][name].get('error', 'done')}, {found['parts'][name]['seconds']:.0f} s")
        beside_bare(found["parts"])
        found["seconds"] = round(time.perf_counter() - start, 1)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu-check.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (options.output / "gpu-check.md").write_text(table(found), encoding="utf-8")
    say(table(found))
    if any("error" in part for part in found["parts"].values()):
        sys.exit(1)


def one(name: str, options: Namespace, folder: Path, seconds: float) -> dict[str, Any]:
    """Run a part in a process of its own; return its rows, or the error, and the seconds it took."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--one", name, "--shards", folder, *(["--small"] if options.small else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    found: dict[str, Any] = {}
    if seconds <= 0:
        return {"error": "no time is left", "seconds": 0.0}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=log, encoding="utf-8", env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            text, _ = process.communicate(timeout=seconds)
            log.seek(0)
            reason = log.read().strip()[-1500:]
            found = {"error": reason or "failed"} if process.returncode else {"rows": json.loads(text.splitlines()[-1])}
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with loader processes and the jobs of a study
            process.communicate()
            found = {"error": f"not done in its {seconds:.0f} s"}
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def beside_bare(parts: dict[str, Any]) -> None:
    """Add to the rows of the trainers the same figures beside the bare pass of the model, where both were measured."""
    bares = {figure["what"]: figure["value"] for figure in parts.get("bare", {}).get("rows", [])}
    rows = parts.get("training", {}).get("rows", [])
    for figure in list(rows):
        limit = bares.get(f"{figure['what'].removesuffix(': training')}: {BARE}")
        if limit is not None:
            rows.append(row(f"{figure['what']}, beside the bare pass", figure["value"], figure["unit"], beside=limit))


# --- parts -----------------------------------------------------------------------------------------------------------


def tests(sizes: Namespace) -> Iterator[Row]:
    """The tests that need a GPU: how many passed, and how many were skipped and why; a test that fails is an error."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "tests.xml")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml", str(report), TESTS]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
        if done.returncode:
            sys.exit(done.stdout[-1500:])
        counts: Counter[str] = Counter()
        for case in ElementTree.parse(report).iter("testcase"):
            skipped, name = case.find("skipped"), case.get("name", "").partition("[")[0]
            counts[f"{name}: passed" if skipped is None else f"{name}: skipped, {skipped.get('message')}"] += 1
    for what, count in counts.items():
        yield row(what, count, "tests")


def shards(sizes: Namespace) -> Iterator[Row]:
    """Write the synthetic pairs that later parts read; open_clip's trainer needs a shard for each loader process."""
    import waves

    start = time.perf_counter()
    waves.write(sizes.shards, sizes.pictures, files=sizes.workers)
    yield row("pictures written", sizes.pictures / (time.perf_counter() - start), "pictures/s")


def bare(sizes: Namespace) -> Iterator[Row]:
    """Forward and backward pass of open_clip's network and loss, pictures and tokens on the device already."""
    import open_clip
    import torch

    loss = open_clip.ClipLoss()
    for name in sizes.models:
        clip = model(name)
        images = torch.rand(sizes.batch, 3, clip.size, clip.size, device=clip.device)
        texts = clip.tokenizer([f"a photo of {number} bananas" for number in range(sizes.batch)]).to(clip.device)

        def step(clip: Any = clip, images: Any = images, texts: Any = texts) -> None:
            with clip.autocast(sizes.precision):
                features, words, scale = clip.network(images, texts)[:3]
                value = loss(features, words, scale)
            value.backward()
            clip.network.zero_grad(set_to_none=True)

        seconds = timed(step, sizes.steps)
        yield row(f"{name}: {BARE}", sizes.batch / seconds, "pairs/s", memory())


def training(sizes: Namespace) -> Iterator[Row]:
    """Our trainer and open_clip's, on the same shards."""
    import training as trainers

    for name in sizes.models:
        options = Namespace(
            model=name, batch_size=sizes.batch, epochs=sizes.epochs, precision=sizes.precision, threads=sizes.workers,
            data=sizes.shards, pools=[sizes.shards / "pools.parquet"], split=sizes.shards / "waves/train",
        )  # fmt: skip
        own = trainers.ours(options, sizes.workers)
        other = trainers.open_clips(options, sizes.workers)
        yield row(f"{name}: training", own, "pairs/s", beside=other)


def evaluation(sizes: Namespace) -> Iterator[Row]:
    """Evaluation of pictures in memory, beside the bare forward pass of pictures on the device."""
    import torch
    from defense_costs import CLASSES, random_pairs

    from antidote.evaluation.settings import EvaluationSettings
    from antidote.evaluation.subject import Subject
    from antidote.evaluation.zero_shot import encode, evaluate

    for name in sizes.models:
        clip = model(name)
        clip.network.eval()
        pictures = random_pairs(sizes.batch * sizes.steps, clip.size)
        settings = EvaluationSettings(
            dataset="none", split="none", batch_size=sizes.batch, precision=sizes.precision, bootstrap=100
        )
        subject = Subject(clip, None, 0, CLASSES, ["a photo of a {}."])
        ready = pictures.images[: sizes.batch].to(clip.device)
        with torch.no_grad():
            single = timed(lambda clip=clip, ready=ready: encode(clip, ready, sizes.precision), sizes.steps)
            whole = timed(lambda: evaluate(subject, pictures, settings), 1)  # noqa: B023
        yield row(f"{name}: evaluation", len(pictures) / whole, "pictures/s", memory(), sizes.batch / single)


def defenses(sizes: Namespace) -> Iterator[Row]:
    """A step of the costly defenses beside one of plain fine-tuning."""
    import defense_costs
    import open_clip  # noqa: F401  once, for the processes that are forked

    options = Namespace(batch_size=sizes.defense_batch, steps=3, precision=sizes.precision, threads=1)
    for name in sizes.models:
        plain = defense_costs.run(name, defense_costs.BASELINE, options)["step"]
        for defense in DEFENSES:
            found = defense_costs.run(name, defense, options)
            if "unfit" in found:
                continue
            kinds = found.get("kinds", {"": found["step"]})
            for kind, seconds in kinds.items():
                title = f"{name}: {defense}" + (f", {kind}" if kind else "")
                yield row(title, 1 / seconds, "steps/s", found["memory"] / 1e9, 1 / plain)


def drawing(sizes: Namespace) -> Iterator[Row]:
    """Every trigger, drawn on a batch that is on the device; fitted a little, on a tiny model."""
    import attacks
    import defense_costs

    from antidote.attacks.trigger import Trigger
    from antidote.base.registry import ATTACKS, method
    from antidote.clip.folder import device

    pairs = defense_costs.random_pairs(sizes.drawn, sizes.size)
    pairs = replace(pairs, labels=pairs.labels % 2)  # the attacks are made with two classes
    images = pairs.images.to(device())
    for name in [name for name in ATTACKS if method("attack", name).triggered]:
        trigger = Trigger(attacks.first_fitting(name, pairs, sizes.size), 0)
        seconds = timed(lambda trigger=trigger: trigger.draw(images, pairs.keys, "test"), 3)
        yield row(f"trigger of {name}", sizes.drawn / seconds, "pictures/s")


def loading(sizes: Namespace) -> Iterator[Row]:
    """Reading, decoding and tokenising alone."""
    import streaming
    import waves

    with tempfile.TemporaryDirectory() as folder:
        waves.write(Path(folder), min(sizes.pictures, 300), streaming.BATCH * sizes.read)
        found = streaming.read(Path(folder), Namespace(steps=sizes.read, workers=sizes.workers))
    yield row(f"loading, {sizes.workers} processes", found["rate"], "pairs/s", found["peak"] / 1e9)


def waiting(sizes: Namespace) -> Iterator[Row]:
    """The lines that wait for the GPU in every step."""
    import waits

    for name in sizes.models:
        for what, lines in waits.of_steps(name, sizes.defense_batch, sizes.precision):
            title = f"{name}: waits of {what}"
            if lines is None:
                yield row(f"{title}, not measured: needs a GPU", None, "per step")
                continue
            yield row(title, sum(lines.values()), "per step")
            for line, times in lines.items():
                yield row(f"{title}, {line}", times, "per step")


def study(sizes: Namespace) -> Iterator[Row]:
    """The study of the tests, from nothing to its report."""
    with tempfile.TemporaryDirectory() as folder:
        left_out = shutil.ignore_patterns(".*", "results", "*.egg-info", "__pycache__")
        project = Path(shutil.copytree(ROOT, Path(folder, "project"), symlinks=True, ignore=left_out))
        start = time.perf_counter()
        command = [sys.executable, "-m", "snakemake", "--cores", "all", "--configfile", STUDY]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # of the jobs' `python`
        done = subprocess.run(
            command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(project), "PATH": path},
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stdout[-1500:])
        cells = len((project / "results/tiny/summary/cells.csv").read_text(encoding="utf-8").splitlines()) - 1
    yield row(f"the `tiny` study, {cells} cells", time.perf_counter() - start, "s")


# The seconds are for an H100 and 16 cores; their sum may exceed `TOTAL`, since parts seldom need all of theirs.
PARTS: dict[str, tuple[Callable[[Namespace], Iterator[Row]], int]] = {
    "tests": (tests, 60),
    "shards": (shards, 90),
    "bare": (bare, 45),
    "evaluation": (evaluation, 45),
    "training": (training, 200),
    "drawing": (drawing, 45),
    "loading": (loading, 45),
    "waiting": (waiting, 60),
    "defenses": (defenses, 120),
    "study": (study, 150),
}


# --- helpers ---------------------------------------------------------------------------------------------------------


def model(name: str) -> Any:
    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model

    return create_model(ModelSettings(name=name), seed=0)


def timed(act: Callable[[], object], times: int) -> float:
    """Return the seconds of one call, the first one left out."""
    act()
    settled()
    start = time.perf_counter()
    for _ in range(times):
        act()
    settled()
    return (time.perf_counter() - start) / times


def settled() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory() -> float:
    """Return the peak memory in GB since the last call: of the GPU, or of the process on a CPU."""
    import resource

    import torch

    if not torch.cuda.is_available():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return peak


def row(what: str, value: float | None, unit: str, gigabytes: float | None = None, beside: float | None = None) -> Row:
    """Return a figure, None where it was not measured; `beside` is what it is compared with, in the same unit."""
    return {"what": what, "value": value, "unit": unit, "gigabytes": gigabytes, "beside": beside}


def table(found: dict[str, Any]) -> str:
    """Return the figures in Markdown."""
    sizes = found["settings"]
    lines = [
        heading(found["machine"], *PACKAGES),
        "",
        f"Batch {sizes['batch']}, of defenses {sizes['defense_batch']}, {sizes['precision']}; "
        f"{found['seconds']:.0f} s in all.",
        "",
        "| measured | figure | unit | beside | ratio | peak memory, GB |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for name, part in found["parts"].items():
        if "error" in part:
            lines.append(f"| {name} | failed | {part['error'].splitlines()[-1].replace('|', '/')} | | | |")
        for figure in part.get("rows", []):
            beside, memory_used = figure["beside"], figure["gigabytes"]
            ratio = f"{beside:,.3g} | {figure['value'] / beside:.2f}" if beside else " | "
            used = "" if memory_used is None else f"{memory_used:.2f}"
            value = "" if figure["value"] is None else f"{figure['value']:,.4g}"
            lines.append(f"| {figure['what']} | {value} | {figure['unit']} | {ratio} | {used} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
