"""Time and memory of `antidote scan` after the encoding: synthetic features of many pairs, scored from a file.

    python benchmarks/scan.py --pairs 500000 --width 512 --detector dao

Prints machine and versions, then one JSON line: seconds of writing and of scoring; the latter as a multiple of the
inner products of each batch of 2,048 features, which detectors by neighbours need; peak resident memory of the process;
size of the feature file.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from measured import say, say_machine

from antidote.base.lazy import torch
from antidote.base.registry import method
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.detectors.features import FeatureFile
from antidote.training.session import Work

ROWS = 4096  # features written at a time
BATCH = 2048  # features per matrix of inner products


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=512, help="numbers per feature (ViT-B/32: 512, RN50: 1024)")
    parser.add_argument("--detector", default="dao")
    args = parser.parse_args()
    say_machine("torch", "scikit-learn", "numpy")
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder) / "features.f32", time.perf_counter()
        generator = np.random.default_rng(0)
        with path.open("wb") as file:
            for first in range(0, args.pairs, ROWS):
                rows = min(ROWS, args.pairs - first)
                file.write(generator.standard_normal((rows, args.width), np.float32).tobytes())
        written = time.perf_counter() - start
        products = inner_products(path, args.width)  # imports torch, whose memory and time are not the detector's
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        keys = [f"{number:08d}" for number in range(args.pairs)]
        pairs = Pairs(keys, FeatureFile(path, args.width), keys, torch.full((args.pairs,), -1))
        kind, start = method("detector", args.detector), time.perf_counter()
        scores = kind(kind.Settings(), 0).score(None, DefenseData(training_set=pairs), Work(Path(folder), "scan"))
        scored = time.perf_counter() - start
        figures = {
            "detector": args.detector, "pairs": len(scores.values), "width": args.width,
            "threads": torch.get_num_threads(), "seconds_written": round(written, 1),
            "seconds_scored": round(scored, 1), "times_inner_products": round(scored / products, 2),
            "peak_mib_before": before >> 10,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "file_mib": path.stat().st_size >> 20,
        }  # fmt: skip
    say(json.dumps(figures))


def inner_products(path: Path, width: int) -> float:
    """Return the seconds of reading the features once and multiplying each batch (n, D) by its transpose."""
    torch.get_num_threads()
    start = time.perf_counter()
    with path.open("rb") as file:
        while data := file.read(BATCH * width * 4):
            batch = torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, width)
            batch @ batch.T
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
