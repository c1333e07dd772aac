"""Speed of drawing each trigger at 224 pixels, batched, beside decoding a JPEG of that size: pictures/s on one core.

Decoding is measured again before each trigger, since a machine that does other work runs at changing speed; shown is
the median of several rounds. With `--page`, the table goes into a page, between its `throughput` marks.

    python benchmarks/attacks.py --page docs/attacks.md
"""

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import open_clip
import torch
from measured import say_machine

from antidote.attacks.base import Attack
from antidote.attacks.contract import FitContext
from antidote.attacks.trigger import pictures_at_a_time
from antidote.base.files import whole_file
from antidote.base.registry import ATTACKS, method
from antidote.clip.folder import device
from antidote.clip.model import Clip
from antidote.data.pairs import Pairs
from antidote.data.scenes.draw import generate
from antidote.data.store.images import decode, encode_jpeg, fit
from antidote.summary.text import filled

log = logging.getLogger("benchmark")

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
QUICK = {"epochs": 1, "batch_size": 4}  # of triggers that are fitted, on a tiny model; drawing costs the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=1.0, help="least time per measurement")
    drawing = [name for name in ATTACKS if method("attack", name).triggered]
    parser.add_argument("--attacks", nargs="+", default=drawing, choices=drawing)
    parser.add_argument("--rounds", type=int, default=3, help="measurements, of which the median counts")
    parser.add_argument("--page", type=Path, help="page to fill, between its `throughput` marks")
    arguments = parser.parse_args()
    say_machine("torch", "torchvision", "open_clip", "Pillow")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    pictures, captions, labels = generate(1, 0, arguments.pictures, arguments.size)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    pairs = Pairs([str(i) for i in range(len(images))], images, captions, torch.from_numpy(labels))
    files = [encode_jpeg(picture) for picture in pictures]
    batch = images[: pictures_at_a_time(arguments.size)].float() / 255
    seeds = list(range(len(batch)))
    found = []
    for name in arguments.attacks:
        for preset in dict.fromkeys([*method("attack", name).Settings.presets]) or [None]:
            try:
                attack = made(name, preset, pairs, arguments.size)
            except ValueError as error:
                log.info("%-36s does not fit: %s", f"{name} {preset or ''}", error)
                continue
            rounds = []
            for _ in range(arguments.rounds):
                decoding = speed(
                    lambda: [fit(decode(file), arguments.size) for file in files], len(files), arguments.seconds
                )
                drawing = speed(lambda attack=attack: attack.apply(batch, seeds), len(batch), arguments.seconds)
                rounds.append((drawing / decoding, drawing, decoding))
            ratio, drawn, decoding = (median(column) for column in zip(*rounds, strict=True))
            found.append((name, preset or "", drawn, ratio, decoding))
            log.info("%-36s %8d pictures/s, %5.2f x", f"{name} {preset or ''}", drawn, ratio)
    log.info("%-36s %8d pictures/s", "decoding a JPEG", median(row[-1] for row in found))
    if arguments.page:
        old = arguments.page.read_text(encoding="utf-8")
        with whole_file(arguments.page) as temporary:
            text = filled(old, "throughput", table(found, arguments.size), str(arguments.page))
            temporary.write_text(text, encoding="utf-8")


def table(found: list[tuple[str, str, float, float, float]], size: int) -> str:
    """Return the table in Markdown, of attack, preset, pictures/s, times decoding, and decoding's own pictures/s."""
    decoding = median(row[-1] for row in found)
    lines = [
        f"Pictures of {size} pixels, one thread of a CPU. Decoding a JPEG of that size: {decoding:,.0f} pictures/s.",
        "",
        "| attack | preset | pictures/s | times decoding |",
        "| --- | --- | ---: | ---: |",
        *(f"| {name} | {preset} | {drawn:,.0f} | {ratio:.2f} |" for name, preset, drawn, ratio, _ in found),
    ]
    return "\n".join(lines) + "\n"


def made(name: str, preset: str | None, pairs: Pairs, size: int) -> Attack:
    """Return an attack whose trigger is drawn, or fitted a little; raise ValueError if it does not fit the size."""
    kind = method("attack", name)
    quick = {key: value for key, value in QUICK.items() if kind.learned and key in kind.Settings.model_fields}
    settings = kind.Settings.read({"method": name, "preset": preset, **quick}, name)
    settings.check(size)
    attack = kind(settings, "banana", size)
    if kind.learned:
        few = pairs.take(range(min(len(pairs), 32)))
        context = FitContext(tiny(size), few, ["banana", "boat"], ["a {}"], 0, lambda: few)
        attack.tensors = attack.fit(context, 0)
    else:
        attack.tensors = attack.fit(None, 0)
    return attack


def first_fitting(name: str, pairs: Pairs, size: int) -> Attack:
    """Return an attack with the first of its presets that fits the size, its defaults last; else raise ValueError."""
    *presets, last = [*method("attack", name).Settings.presets, None]
    for preset in presets:
        try:
            return made(name, preset, pairs, size)
        except ValueError:  # as a patch of 50 pixels for a picture of 32
            continue
    return made(name, last, pairs, size)


def tiny(size: int) -> Clip:
    """Return a CLIP of random weights."""
    vision = {"image_size": size, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    return Clip(open_clip.CLIP(**config).to(device()), {"model_cfg": config, "preprocess_cfg": preprocess})


def speed(call: Callable[[], object], pictures: int, seconds: float) -> float:
    """Return pictures per second of processor time, which other jobs on the machine do not change."""
    call()
    rounds, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        call()
        rounds += 1
    return rounds * pictures / (time.process_time() - start)


if __name__ == "__main__":
    main()
