"""Training speed: our loop beside open_clip's own trainer, in pairs per second; with `--pairs`, evaluation as well.

Same model, shards, batch size, precision and threads; runs alternate, so that both see the same noise, and each
trainer's steady rate (by the times of its log lines, first quarter left out) is compared as a ratio. On the default
study, whose pairs have to be there:

    snakemake --cores all -- results/default/pools/training.parquet results/default/pools/poison.parquet
    python benchmarks/training.py

At full size, on the GPU if there is one: synthetic pairs in shards, which both stream with as many loader processes;
then the rate of an evaluation from pictures in memory beside that of the bare network.

    python benchmarks/training.py --model ViT-B-32 --pairs 20000 --batch-size 256 --precision bf16 --workers 8
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measured import ROOT, say, say_machine, whole_rounds

LR, WARMUP = 0.002, 20
STUDY = [ROOT / f"results/default/pools/{pool}.parquet" for pool in ("training", "poison")]

# open_clip's trainer does not know the end-of-shard marks that webdataset 1 puts between the files.
# Its log has whole seconds, and a rate per line that is the time of one step, for which it does not wait on a GPU.
OPEN_CLIP = """
import logging, sys, open_clip, open_clip_train.data as data
from open_clip_train.main import main
group = data.group_by_keys_nothrow
data.group_by_keys_nothrow = lambda files, **more: group((file for file in files if "fname" in file), **more)
open_clip.add_model_config(sys.argv[1])
logging.Formatter.formatTime = lambda self, record, datefmt=None: str(record.created)
main(sys.argv[2:])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="open_clip's loader; its best counts")
    parser.add_argument("--model", default="tiny-rn", help="open_clip name, or one of data/models")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, help="synthetic pairs in place of the default study's")
    options = parser.parse_args()
    say_machine("torch", "open_clip")
    with tempfile.TemporaryDirectory() as folder:
        options.data, options.pools, options.split = ROOT / "data", STUDY, ROOT / "data/scenes/train"
        if options.pairs:
            import waves

            options.data, options.pools = Path(folder), [waves.write(Path(folder), options.pairs)]
            options.split = Path(folder, waves.SPLIT)
        compare(options)
    if options.pairs:
        evaluation(options)


def compare(options: argparse.Namespace) -> None:
    streamed = max(options.workers) if options.pairs else None
    trainers = {"antidote": lambda options: ours(options, streamed)}
    trainers |= {f"open_clip, {n} workers": lambda o, n=n: open_clips(o, n) for n in options.workers}
    rates: dict[str, list[float]] = {name: [] for name in trainers}
    walls: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(options.rounds):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            rates[name].append(trainer(options))
            walls[name].append(time.perf_counter() - start)
            say(f"round {turn + 1}, {name}: {rates[name][-1]:.3g} pairs/s, {walls[name][-1]:.1f} s in all")
    best = max((name for name in trainers if name != "antidote"), key=lambda name: statistics.median(rates[name]))
    ratios = [a / b for a, b in zip(rates["antidote"], rates[best], strict=True)]
    whole = [b / a for a, b in zip(walls["antidote"], walls[best], strict=True)]
    what = f"{options.model}, {options.threads} threads, batch {options.batch_size}, {options.precision}"
    say(f"{what}, medians of {options.rounds} rounds:")
    for name in trainers:
        rate, wall = statistics.median(rates[name]), statistics.median(walls[name])
        say(f"  {name:24s} {rate:7.3g} pairs/s  {wall:6.1f} s in all")
    ratio, in_all = statistics.median(ratios), statistics.median(whole)
    say(f"  antidote over {best}: {ratio:.2f} times the rate (start-up left out), {in_all:.2f} times with start-up")


def ours(options: argparse.Namespace, workers: int | None) -> float:
    """Run scripts/pretrain.py, streaming where `workers` are named; return its steady pairs per second."""
    recipe = {"epochs": options.epochs, "batch_size": options.batch_size, "lr": LR, "warmup": WARMUP}
    settings = {"model": {"name": options.model}, "training": {**recipe, "precision": options.precision}}
    reading = [] if workers is None else ["--in-memory-mb", 0, "--workers", workers]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, ROOT / "scripts/pretrain.py", "--settings", json.dumps(settings), "--data", options.data,
            "--pools", *options.pools, "--output", f"{folder}/model", *reading,
        ]  # fmt: skip
        run(command, options)
        lines = [
            json.loads(line) for line in Path(folder, "model/train.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    return steady(lines, workers or 0)


def steady(lines: list[dict], workers: int) -> float:
    """Return the steady pairs per second of a training log; it holds the mean rate since the start at some steps."""
    return between({line["step"]: line["step"] / line["pairs_per_second"] for line in lines}, workers)  # per pair


def between(seconds: dict[int, float], workers: int) -> float:
    """Return the steps per unit of time between two steps; the times are those at the end of some steps, ascending."""
    first, last = whole_rounds(list(seconds), workers)
    if seconds[last] <= seconds[first]:
        sys.exit(
            f"a log of {len(seconds)} lines, of steps {min(seconds)} to {max(seconds)}, has no steady part; "
            "give more --epochs or --pairs"
        )
    return (last - first) / (seconds[last] - seconds[first])


def open_clips(options: argparse.Namespace, workers: int) -> float:
    """Run open_clip's trainer on the same shards; return its steady pairs per second."""
    shards = sorted(options.split.glob("*.tar"))
    pairs = len(pair_keys(options.split))
    device = "cuda" if has_gpu() else "cpu"
    precision = {"fp32": "fp32", "bf16": "amp_bf16"}[options.precision]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "--train-data", str(shards[0].parent / f"{{{shards[0].stem}..{shards[-1].stem}}}.tar"),
            "--dataset-type", "webdataset", "--train-num-samples", str(pairs), "--batch-size", str(options.batch_size),
            "--epochs", str(options.epochs), "--lr", str(LR), "--warmup", str(WARMUP), "--wd", "0.1",
            "--beta2", "0.999", "--eps", "1e-8", "--workers", str(workers), "--model", options.model,
            "--precision", precision, "--device", device,
            "--logs", folder, "--log-every-n-steps", "5", "--save-frequency", "0", "--name", "run",
        ]  # fmt: skip
        run([sys.executable, "-c", OPEN_CLIP, ROOT / "data/models", *arguments], options)
        text = Path(folder, "run/out.log").read_text(encoding="utf-8")
    return logged(text, options.batch_size, workers)


def logged(text: str, batch_size: int, workers: int) -> float:
    """Return the steady pairs per second of open_clip's log, which waits for a GPU before each of its lines."""
    lines = re.findall(r"^([\d.]+) .*Train Epoch: (\d+) \[ *(\d+)/", text, re.MULTILINE)
    whole = max(int(pairs) for _, _, pairs in lines)  # of an epoch; its last step is always logged
    seconds = {(int(epoch) * whole + int(pairs)) // batch_size: float(time) for time, epoch, pairs in lines}
    return batch_size * between(seconds, workers)


def pair_keys(split: Path) -> list[str]:
    """Return the names of the pairs in a split's shards."""
    import pandas as pd

    return pd.read_parquet(split / "index.parquet", columns=["key"])["key"].tolist()


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def evaluation(options: argparse.Namespace) -> None:
    """Say how many pictures per second an evaluation encodes from memory, and the bare network from its own device."""
    import torch

    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model

    torch.set_num_threads(options.threads)
    clip = create_model(ModelSettings(name=options.model), seed=0)
    clip.network.eval()
    count = 4 * options.batch_size
    pictures = torch.randint(0, 256, (count, 3, clip.size, clip.size), dtype=torch.uint8)
    batch = clip.normalise(pictures[: options.batch_size])
    steps = range(count // options.batch_size)
    with torch.no_grad(), clip.autocast(options.precision):
        cached = timed(lambda: [clip.encode_image(part) for part in pictures.split(options.batch_size)])
        bare = timed(lambda: [clip.network.encode_image(batch) for _ in steps])
    say(f"evaluation: {count / cached:.3g} pictures/s from memory, {bare / cached:.0%} of the bare network's rate")


def timed(act: Callable[[], object]) -> float:
    """Return the seconds of the second of two calls."""
    import torch

    for _ in range(2):
        start = time.perf_counter()
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return time.perf_counter() - start


def run(command: list, options: argparse.Namespace) -> None:
    # As the workflow sets it; it serves both trainers.
    threads = {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(part) for part in command], capture_output=True, encoding="utf-8", env=environment)
    if done.returncode:
        sys.exit(done.stderr[-2000:])


if __name__ == "__main__":
    main()
