"""Which lines wait for a GPU in every step of a training, of a defense and of the inversion of a trigger.

A program waits where it reads a value back from the GPU, and where it copies ordinary memory to the GPU without
`non_blocking`. torch warns of both in a mode of its own, `torch.cuda.set_sync_debug_mode`. Each run is made with some
steps and with twice as many: what the second has more of is waited for in every step. Random weights, random pairs.

    python benchmarks/waits.py --models RN50 ViT-B-32 --batch-size 64 --precision bf16
"""

import argparse
import sys
import tempfile
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import defense_costs
from measured import ROOT, say_machine

STEPS = 3  # twice as many are fewer than the log's ten
WARNING = "called a synchronizing CUDA operation"
OUTSIDE = "outside of antidote"
DEFENSES = {"cleanclip": {}, "cbpt": {"positives": "pictures"}}  # its inversion and its prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["RN50", "ViT-B-32"], help="open_clip names")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    say_machine("torch", "open_clip")
    for model in options.models:
        for name, lines in of_steps(model, options.batch_size, options.precision):
            if lines is None:
                sys.stdout.write(f"{model}, {name}: not measured, needs a GPU\n")
                continue
            for line, times in lines.items():
                sys.stdout.write(f"{model}, {name}: {line} waits {times:g} times per step\n")


def of_steps(model: str, batch_size: int, precision: str) -> Iterator[tuple[str, dict[str, float] | None]]:
    """Yield per run its name, and by line of `antidote`, as `clip/model.py:96`, how often a step waits there.

    The lines are None without a GPU: the run is made once and shows nothing.
    """
    import torch

    for name in ["training", *DEFENSES]:
        act = _run(model, name, batch_size, precision)
        act(STEPS)  # what is made once, kernels for instance, is not counted
        if torch.cuda.is_available():
            few, many = waits(lambda act=act: act(STEPS)), waits(lambda act=act: act(2 * STEPS))
            yield name, {line: times / STEPS for line, times in (many - few).most_common()}
        else:
            yield name, None


def waits(act: Callable[[], object]) -> Counter[str]:
    """Return how often each line of `antidote` waited for the GPU within a call."""
    import torch

    found: Counter[str] = Counter()

    def shown(message: Warning | str, *more: object) -> None:
        if WARNING in str(message):
            found[_line(sys._getframe(1))] += 1

    gpu = torch.cuda.is_available()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = shown
        if gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            act()
        finally:
            if gpu:
                torch.cuda.set_sync_debug_mode("default")
    return found


def _line(frame: FrameType | None) -> str:
    """Return the innermost line of `antidote` at a frame."""
    code = str(ROOT / "antidote")
    while frame is not None and not frame.f_code.co_filename.startswith(code):
        frame = frame.f_back
    if frame is None:
        return OUTSIDE
    return f"{Path(frame.f_code.co_filename).relative_to(code).as_posix()}:{frame.f_lineno}"


def _run(model: str, name: str, batch_size: int, precision: str) -> Callable[[int], None]:
    """Return what makes a run of some steps."""
    from antidote.base.registry import method
    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model
    from antidote.training.loop import train
    from antidote.training.objectives import Contrastive
    from antidote.training.recipe import TrainSettings
    from antidote.training.session import Work

    def act(steps: int) -> None:
        clip = create_model(ModelSettings(name=model), seed=0)
        options = Namespace(batch_size=batch_size, steps=steps, precision=precision)
        data = defense_costs.data(clip.size, options)
        with tempfile.TemporaryDirectory() as folder:
            work = Work(Path(folder), "a measurement", 1e9)
            if name == "training":
                recipe = TrainSettings(epochs=1, batch_size=batch_size, warmup=0, precision=precision)
                train(clip, Contrastive(data.pairs), recipe, 0, work)
                return
            kind = method("defense", name)
            values = {"method": name, **defense_costs.small(kind.Settings, options), **DEFENSES[name]}
            if "tuning" in values:
                values["tuning"] = {**values["tuning"], "epochs": steps}
            kind(kind.Settings.read(values, name), 0).run(clip, data, work)

    return act


if __name__ == "__main__":
    main()
