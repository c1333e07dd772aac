"""Speed of the embedded dataset: drawing, and writing as shards, in pictures per second on one core."""

import argparse
import logging
import tempfile
import time

from measured import say_machine

from antidote.base.registry import method
from antidote.data.scenes.draw import CHUNK, generate
from antidote.data.store import ingest

log = logging.getLogger("benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 224])
    arguments = parser.parse_args()
    say_machine("numpy", "Pillow")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for size in arguments.sizes:
        pairs = max(CHUNK, arguments.pairs * 32 * 32 // size**2)
        start = time.perf_counter()
        generate(1, 0, pairs, size)
        drawn = time.perf_counter()
        settings = method("source", "scenes").read(
            {"size": size, "splits": {"train": {"pairs": pairs, "seed": 1}}}, "scenes"
        )
        with tempfile.TemporaryDirectory() as folder:
            ingest.write(settings, "scenes", "train", folder)
        written = time.perf_counter()
        log.info(
            "%d px: %d pictures/s drawn, %d pictures/s drawn and written (%.2f times the time)",
            size,
            pairs / (drawn - start),
            pairs / (written - drawn),
            (written - drawn) / (drawn - start),
        )


if __name__ == "__main__":
    main()
