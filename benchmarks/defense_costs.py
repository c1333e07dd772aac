"""What each defense costs at full size beside plain fine-tuning: seconds per step, and peak memory.

Random weights and random pictures of 224 pixels, on the GPU if there is one, else on the CPU. Each defense runs in a
process of its own, so that its peak memory is its own; the first step of each is left out. A method with steps of two
kinds has a row for each: TA-Cleaner's with and without sub-captions, and their mean over an epoch of its defaults;
CBPT's of the prompts, which encode the texts of 100 classes, and of the inversion. What a defense does beside its steps
(scans of the pairs, features, inner problems) is a column of its own, for as few pairs as there are here. On the CPU,
seconds are processor seconds, so that a busy machine counts less. Prints a table in Markdown.

    python benchmarks/defense_costs.py --models RN50 ViT-B-32 --batch-size 8
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measured import say, say_machine

BASELINE = "finetune"
CLASSES = [f"{kind} {number}" for number in range(25) for kind in ("banana", "boat", "cactus", "ball")]
SHOTS = len(CLASSES)  # one of each
PAIRS = 100_000  # of the papers' defense pool, for the share of steps that are of one kind
CAPTIONS = ["a red banana lies on the table", "a small blue boat near the beach", "a large cactus", "two green balls"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["RN50", "ViT-B-32"], help="open_clip names")
    parser.add_argument("--methods", nargs="*", help="defenses; all by default")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="at least 2")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import open_clip  # noqa: F401  once, for all that follows

    from antidote.base.registry import DEFENSES

    methods = options.methods or [name for name in DEFENSES if name != "none"]
    say_machine("torch", "open_clip")
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    say(f"{threads}, batch {options.batch_size}, {options.precision}, {options.steps - 1} timed steps.\n")
    say("| model | defense | seconds per step | times fine-tuning | seconds beside the steps | peak memory, GB |")
    say("| --- | --- | ---: | ---: | ---: | ---: |")
    for model in options.models:
        usual = None
        for name in [BASELINE, *(name for name in methods if name != BASELINE)]:
            found = run(model, name, options)
            usual = usual or found["step"]
            for line in rows(model, name, found, usual):
                say(line)


def run(model: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one defense in a process of its own; this one must not touch the GPU."""
    context = multiprocessing.get_context("fork")
    answer, given = context.Pipe(duplex=False)
    child = context.Process(target=lambda: given.send(measured(model, name, options)))
    child.start()
    given.close()
    try:
        return answer.recv()
    except EOFError:
        sys.exit(f"{model}, {name}: failed")


def rows(model: str, name: str, found: dict[str, Any], usual: float) -> list[str]:
    """Return a row for each kind of step, or for the one there is."""
    kinds = found.get("kinds", {"": found.get("step")})
    named = {f"{name}, {kind}" if kind else name: seconds for kind, seconds in kinds.items()}
    return [row(model, title, {**found, "step": seconds}, usual) for title, seconds in named.items()]


def row(model: str, name: str, found: dict[str, Any], usual: float) -> str:
    if "unfit" in found:
        return f"| {model} | {name} | {found['unfit']} | | | |"
    step, factor = (f"{found['step']:.3g}", f"{found['step'] / usual:.2f}") if found["step"] else ("trains nothing", "")
    return f"| {model} | {name} | {step} | {factor} | {found['beside']:.1f} | {found['memory'] / 1e9:.2f} |"


def measured(model: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a defense; return seconds per step and beside the steps, and peak memory in bytes."""
    import resource

    import torch

    from antidote.base.registry import method
    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model
    from antidote.training.session import Work

    clip = create_model(ModelSettings(name=model), seed=0)
    kind = method("defense", name)
    unfit = kind.fits(clip.config["model_cfg"])
    if unfit:
        return {"unfit": unfit}
    values = small(kind.Settings, options)
    if name == "cbpt":
        # Its own batch: pictures are features by then. A step of an inversion costs the same whatever the goal is.
        values |= {"tuning": {"epochs": 1}, "positives": "pictures"}
    settings = kind.Settings.read({"method": name, **values}, name)
    steps = timed_steps(name)
    with tempfile.TemporaryDirectory() as folder:
        start = clock()
        kind(settings, 0).run(clip, data(clip.size, options), Work(Path(folder), "a measurement", 1e9))
        seconds = clock() - start
    gpu = torch.cuda.is_available()
    memory = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"step": middle(steps[1:]), "beside": seconds - sum(steps), "memory": memory}
    if name == "ta_cleaner":  # every step here carries sub-captions; by default only K of the epoch's pairs do
        share, plain = kind.Settings().samples_per_epoch / PAIRS, plain_step(kind, settings, clip, options)
        mean = share * found["step"] + (1 - share) * plain
        found["kinds"] = {"with sub-captions": found["step"], "without": plain, f"mean, {100 * share:g} % with": mean}
    if name == "cbpt":
        tuned = SHOTS // settings.tuning.batch_size
        found["kinds"] = {"prompts": middle(steps[-tuned:]), "inversion": middle(steps[1:-tuned])}
    return found


def middle(steps: list[float]) -> float | None:
    return sorted(steps)[len(steps) // 2] if steps else None


def plain_step(kind: Any, settings: Any, clip: Any, options: argparse.Namespace) -> float | None:
    """Return the seconds of a step of TA-Cleaner without sub-captions; changes the class for good."""
    from antidote.training.session import Work

    own = sys.modules[kind.__module__]
    own.SubCaptions.rows = lambda objective, batch: []
    steps = timed_steps("ta_cleaner")
    with tempfile.TemporaryDirectory() as folder:
        kind(settings, 0).run(clip, data(clip.size, options), Work(Path(folder), "a measurement", 1e9))
    return middle(steps[1:])


def clock() -> float:
    import torch

    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def small(kind: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return settings for one pass over few pairs; what a step itself does stays as the method has it."""
    values = {
        "epochs": 1, "batch_size": options.batch_size, "precision": options.precision, "warmup": 0, "crops": 1,
        "samples_per_epoch": options.batch_size * options.steps, "inversion_steps": options.steps,
        "forget_batch": options.batch_size, "inner_batch": options.batch_size, "steps": 2,
        "suspicious_share": 0.4, "forget_share": 0.2,
    }  # fmt: skip
    found = {name: value for name, value in values.items() if name in kind.model_fields}
    if "precision" in found and found["precision"] not in typing.get_args(kind.model_fields["precision"].annotation):
        del found["precision"]
    for name, field in kind.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            found[name] = small(field.annotation, options)
    return found


def data(size: int, options: argparse.Namespace) -> Any:
    """Return random pairs for every access level."""
    from antidote.data.access import DefenseData
    from antidote.data.words.lexicon import load_lexicon

    count = options.batch_size * options.steps
    pairs = random_pairs(count, size)
    return DefenseData(
        pairs=pairs, lexicon=load_lexicon("scenes"), shots=random_pairs(SHOTS, size), classes=CLASSES,
        templates=["a photo of a {}."], training_set=twice(pairs), poisoned=frozenset(pairs.keys[: count // 4]),
    )  # fmt: skip


def random_pairs(count: int, size: int) -> Any:
    import torch

    from antidote.data.pairs import Pairs

    return Pairs(
        keys=[f"pair{number}" for number in range(count)],
        images=torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8),
        captions=[CAPTIONS[number % len(CAPTIONS)] for number in range(count)],
        labels=torch.arange(count) % len(CLASSES),
    )


def twice(pairs: Any) -> Any:
    """Return so many pairs that as many steps are left when a defense has set some aside."""
    from dataclasses import replace

    more = pairs.take([*range(len(pairs)), *range(len(pairs))])
    return replace(more, keys=[f"pair{number}" for number in range(len(more))])


def timed_steps(name: str) -> list[float]:
    """Return a list that the seconds of each step of a method come to stand in."""
    import torch

    from antidote.base.registry import module
    from antidote.training.loop import _Run

    steps: list[float] = []

    def timed(act: Callable[..., Any], count: Callable[[Any], int]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            start = clock()
            result = act(*given)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            steps.extend([(clock() - start) / count(result)] * count(result))
            return result

        return run

    _Run.optimise = timed(_Run.optimise, lambda _: 1)
    places = [module("defense", name), "antidote.training.inversion"]
    for own in [sys.modules[place] for place in places if place in sys.modules]:
        if hasattr(own, "tune"):
            own.tune = timed(own.tune, lambda done: done)
    return steps


if __name__ == "__main__":
    main()
