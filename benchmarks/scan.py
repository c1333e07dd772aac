"""Time and memory of `antidote scan` after the encoding: synthetic features of many pairs, scored from a file.

    python benchmarks/scan.py --pairs 500000 --width 512 --detector dao

Prints one JSON line: seconds of writing and of scoring, peak resident memory of the process, size of the feature file.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from antidote.base.lazy import torch
from antidote.base.registry import method
from antidote.data.access import DefenseData
from antidote.data.pairs import Pairs
from antidote.detectors.features import FeatureFile
from antidote.training.session import Work

ROWS = 4096  # features written at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=512, help="numbers per feature (ViT-B/32: 512, RN50: 1024)")
    parser.add_argument("--detector", default="dao")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder) / "features.f32", time.perf_counter()
        generator = np.random.default_rng(0)
        with path.open("wb") as file:
            for first in range(0, args.pairs, ROWS):
                rows = min(ROWS, args.pairs - first)
                file.write(generator.standard_normal((rows, args.width), np.float32).tobytes())
        written = time.perf_counter() - start
        torch.get_num_threads()  # imports torch, whose memory and time are not those of the detector
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        keys = [f"{number:08d}" for number in range(args.pairs)]
        pairs = Pairs(keys, FeatureFile(path, args.width), keys, torch.full((args.pairs,), -1))
        kind, start = method("detector", args.detector), time.perf_counter()
        scores = kind(kind.Settings(), 0).score(None, DefenseData(training_set=pairs), Work(Path(folder), "scan"))
        figures = {
            "detector": args.detector, "pairs": len(scores.values), "width": args.width,
            "threads": torch.get_num_threads(), "seconds_written": round(written, 1),
            "seconds_scored": round(time.perf_counter() - start, 1),
            "peak_mib_before": before >> 10,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "file_mib": path.stat().st_size >> 20,
        }  # fmt: skip
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
