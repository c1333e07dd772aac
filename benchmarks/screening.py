"""Screening of CBPT: a search of a trigger per class, one after the other in fp32, and many at once.

Random weights and random pictures, on the GPU if there is one, else on the CPU. Every round measures all ways in turn,
since a machine that does other work runs at changing speed; shown is the median of the rounds, as picture passes per
second and as times the first way. Prints a table in Markdown.

    python benchmarks/screening.py --models open-rn tiny-rn RN50 --classes 32
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from measured import say, say_machine

from antidote.clip.configs import ModelSettings
from antidote.clip.folder import create_model
from antidote.clip.model import Clip
from antidote.defenses.cbpt import CBPTSettings
from antidote.training.patches import SearchSettings, search, toward
from antidote.training.session import Work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["open-rn", "tiny-rn"], help="architectures")
    parser.add_argument("--classes", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="per class")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    say_machine("torch", "open_clip")
    torch.set_num_threads(options.threads)
    say(f"{options.classes} classes, batches of {CBPTSettings().screening_batch}, {options.threads} thread(s).\n")
    say("| model | precision | searches at once | pictures/s | times |")
    say("| --- | --- | ---: | ---: | ---: |")
    for model in options.models:
        clip = create_model(ModelSettings(name=model), seed=0)
        ways = [(precision, at_once) for precision in ("fp32", "bf16") for at_once in (1, SearchSettings().together)]
        rounds = [[seconds(clip, *way, options) for way in ways] for _ in range(options.rounds)]
        passes = options.classes * options.steps * CBPTSettings().screening_batch
        for column, (precision, at_once) in enumerate(ways):
            rate = median(passes / one[column] for one in rounds)
            times = median(one[0] / one[column] for one in rounds)
            say(f"| {model} | {precision} | {at_once} | {rate:.0f} | {times:.2f} |")


def seconds(clip: Clip, precision: str, at_once: int, options: argparse.Namespace) -> float:
    """Return the seconds of a screening whose searches are run `at_once` at most."""
    settings = CBPTSettings(precision=precision, screening_steps=options.steps).screening
    settings = settings.model_copy(update={"together": at_once})
    stream = torch.Generator().manual_seed(0)
    pictures = options.steps * settings.batch_size
    images = torch.randint(0, 256, (pictures, 3, clip.size, clip.size), generator=stream, dtype=torch.uint8)
    texts = torch.randn(options.classes, clip.network.text_projection.shape[1], generator=stream)
    goals = toward(torch.nn.functional.normalize(texts, dim=1).to(clip.device), settings.temperature)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        search(clip, images, goals, 0.97, options.classes, settings, 0, Work(Path(folder), "a measurement", 1e9))
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
