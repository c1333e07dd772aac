"""Whether keeping triggered pictures pays: drawing them in every cell, beside reading what another cell has drawn.

Per attack, processor seconds per 1,000 pictures: drawn; drawn and kept by the first cell; read by a later one. The
evaluation keeps those of attacks that draw fewer than `evaluation.drawn.SLOW` pictures per second. Triggers are fitted
a little, on a tiny model; MABA with the RN50 that the papers use draws far more slowly than here.

    python benchmarks/drawn.py --size 224 --pictures 64
    python benchmarks/drawn.py --size 32 --pictures 256
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch
from attacks import made
from measured import say_machine

from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.data.pairs import Pairs
from antidote.data.scenes.draw import generate
from antidote.evaluation import drawn

log = logging.getLogger("benchmark")

ATTACKS = {
    "issba": "stegastamp",
    "maba": "original",
    "wanet": "cleanclip",
    "blended": "cleanclip",
    "badnet": "cleanclip",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=[*ATTACKS])
    options = parser.parse_args()
    say_machine("torch", "open_clip")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    pictures, captions, labels = generate(1, 0, options.pictures, options.size)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    pairs = Pairs([str(i) for i in range(len(images))], images, captions, torch.from_numpy(labels))
    log.info("%d pictures of %d px, seconds per 1,000", len(images), options.size)
    log.info("%-10s %9s %9s %9s %9s  %s", "attack", "drawn", "first", "later", "saved", "kept, bytes per picture")
    for name in options.attacks:
        measure(name, pairs, options)


def measure(name: str, pairs: Pairs, options: argparse.Namespace) -> None:
    attack = made(name, ATTACKS[name], pairs, options.size)
    with tempfile.TemporaryDirectory() as folder:
        source, kept = Path(folder, "trigger"), Path(folder, "drawn")
        save_trigger(source, Trigger(attack, 0), name)
        plain = seconds(load_trigger(source), pairs, options)
        threshold, drawn.SLOW = drawn.SLOW, float("inf")
        with drawn.shared(load_trigger(source), source, kept) as trigger:
            first = seconds(trigger, pairs, options)
        with drawn.shared(load_trigger(source), source, kept) as trigger:
            later = seconds(trigger, pairs, options)
        drawn.SLOW = threshold
        stored = sum(file.stat().st_size for file in kept.iterdir()) / len(pairs)
    slow = len(pairs) / plain < threshold
    per = 1000 / len(pairs)
    log.info("%-10s %9.2f %9.2f %9.2f %8.0f%%  %s, %d of %d", name, plain * per, first * per, later * per,
             100 * (1 - later / plain), "yes" if slow else "no", stored, pairs.images[0].numel())  # fmt: skip


def seconds(trigger: Trigger, pairs: Pairs, options: argparse.Namespace) -> float:
    """Return the processor time of drawing on all pictures, without the first batch, which also prepares networks."""
    start = None
    for place in range(0, len(pairs), options.batch_size):
        rows = slice(place, place + options.batch_size)
        trigger.draw(pairs.images[rows], pairs.keys[rows], "test")
        start = start or time.process_time()
    return (time.process_time() - start) * len(pairs) / max(1, len(pairs) - options.batch_size)


if __name__ == "__main__":
    main()
