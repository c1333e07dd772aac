"""Memory and speed of training data that stays in its shards, at two sizes ten times apart.

Synthetic: the index holds as many pairs as asked, which share a few hundred pictures (JPEG, shorter side 256 pixels),
so that it costs no disk; reading, decoding and tokenising are those of training, on pictures of 224 pixels. Nothing is
trained: what is measured is what the size of a dataset can change.

    python benchmarks/streaming.py --pairs 50000 500000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES, SIZE, BATCH = 300, 224, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--steps", type=int, default=20, help=f"batches of {BATCH}")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--one", type=Path, help="a dataset to read; prints the figures as JSON")
    options = parser.parse_args()
    if options.one:
        say(json.dumps(read(options.one, options)))
        return
    sys.path.insert(0, str(ROOT))
    from waves import write

    say("| pairs | pictures in memory would take | peak memory | of a loader | opened in | pairs/s |")
    say("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in options.pairs:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), PICTURES, count)
            command = [sys.executable, __file__, "--one", folder, "--steps", options.steps, "--workers"]
            done = subprocess.run(
                [str(part) for part in [*command, options.workers]], capture_output=True, encoding="utf-8",
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            found = json.loads(done.stdout)
        say(
            f"| {count:,} | {count * 3 * SIZE**2 / 1e9:.1f} GB | {found['peak'] / 1e9:.2f} GB | "
            f"{found['loader'] / 1e9:.2f} GB | {found['opened']:.1f} s | {found['rate']:.0f} |"
        )


def read(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Read some batches; return peak memory in bytes, seconds until the pairs are open, pairs per second."""
    import resource

    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model
    from antidote.data.pairs import load_pools
    from antidote.data.streaming import Reading
    from antidote.training.batches import read_ahead, read_batch
    from antidote.training.objectives import Contrastive
    from antidote.training.recipe import TrainSettings
    from antidote.training.session import epoch_order
    from antidote.training.vocabulary import CompactVocabulary

    clip = create_model(ModelSettings(name="tiny-vit"), seed=0)
    start = time.perf_counter()
    pairs = load_pools(folder / "pools.parquet", ["training"], folder, SIZE, reading=Reading(0, options.workers))
    opened = time.perf_counter() - start
    CompactVocabulary(clip, Contrastive(pairs).texts())
    settings = TrainSettings(batch_size=BATCH)
    with read_ahead(clip, pairs, settings, 0, range(options.steps), lambda rows: rows) as ahead:
        order = epoch_order(0, 0, len(pairs))
        for step in range(options.steps):
            if step == options.steps // 4:
                start = time.perf_counter()
            read_batch(clip, pairs, order[step * BATCH : (step + 1) * BATCH], 0, step, 0, ahead)
        seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    rate = (options.steps - options.steps // 4) * BATCH / seconds
    return {"peak": peaks[0], "loader": peaks[1], "opened": opened, "rate": rate}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
