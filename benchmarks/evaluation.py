"""Memory of scoring one model, clean and triggered, on evaluation sets ten times apart; and the rate beside the bare
forward pass over the same stored pictures.

Drawn scenes at the size and through a network of your choice; random weights do.

    python benchmarks/evaluation.py                                     # a small ViT at 224 px, CPU
    python benchmarks/evaluation.py --model RN50 --pictures 10000 --precision bf16     # where a GPU is
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pool
from pathlib import Path

from measured import ROOT, say, say_machine

SMALL = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="open_clip model name; a small ViT by default")
    parser.add_argument("--pictures", type=int, default=500, help="of the smaller set; the other is ten times as large")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    say_machine("torch", "open_clip")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with Pool(1) as pool:  # what is imported there would count as memory of the jobs started from here
            size = pool.apply(prepare, (options,))
        for factor in (1, 10):
            count = factor * options.pictures
            run("pictures", "--data", f"data/scenes/s{factor}", "--size", size, "--cost", "pictures.json")
            run("evaluate", "--settings", settings(options, factor), "--model", "model", "--trigger", "trigger",
                "--target", "banana", "--output", "scores.json", "--cost", "scores.cost.json")  # fmt: skip
            fitted, scored = (
                json.loads(Path(name).read_text(encoding="utf-8")) for name in ("pictures.json", "scores.cost.json")
            )
            stored = Path(f"data/scenes/s{factor}/pictures-{size}.npy").stat().st_size
            say(f"{count:7d} pictures of {size} px, {stored / 2**20:.0f} MiB")
            say(f"  decoded and resized: {fitted['seconds']:6.1f} s, at most {memory(fitted)}")
            say(f"  scored both ways:    {scored['seconds']:6.1f} s, at most {memory(scored)}")
        rates(options, size)


def prepare(options: argparse.Namespace) -> int:
    """Write the sets, a model with random weights and a trigger; return the side of its pictures."""
    import open_clip
    import torch

    from antidote.attacks.trigger import Trigger, save_trigger
    from antidote.base.registry import method
    from antidote.clip.configs import ModelSettings
    from antidote.clip.folder import create_model, save_model
    from antidote.clip.model import Clip
    from antidote.data.store import ingest
    from antidote.data.store.datasets import dataset_settings

    if options.model:
        clip = create_model(ModelSettings(name=options.model), 0)
    else:
        preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
        torch.manual_seed(0)
        clip = Clip(open_clip.CLIP(**SMALL), {"model_cfg": SMALL, "preprocess_cfg": preprocess})
    save_model("model", clip, {"kind": "random weights"})
    splits = {f"s{factor}": {"pairs": factor * options.pictures, "seed": factor} for factor in (1, 10)}
    source = dataset_settings("scenes", {"scenes": {"splits": splits}})
    for split in splits:
        ingest.write(source, "scenes", split, Path("data/scenes", split))
    kind = method("attack", "badnet")
    attack = kind(kind.Settings.read({"method": "badnet", "preset": "cleanclip"}, "badnet"), "banana", clip.size)
    save_trigger(Path("trigger"), Trigger(attack, 0), "badnet")
    return clip.size


def settings(options: argparse.Namespace, factor: int) -> str:
    return json.dumps({"dataset": "scenes", "split": f"s{factor}", "classes": "scenes", "templates": "scenes",
                       "batch_size": options.batch_size, "precision": options.precision})  # fmt: skip


def rates(options: argparse.Namespace, size: int) -> None:
    """Say how many pictures per second the clean pass scores, and how many the network encodes that has them ready."""
    import torch

    from antidote.clip.folder import load_model
    from antidote.data import fitted
    from antidote.data.words.names import class_names, templates
    from antidote.evaluation.settings import EvaluationSettings
    from antidote.evaluation.subject import Subject
    from antidote.evaluation.zero_shot import encode, evaluate

    clip = load_model("model")
    clip.network.eval()
    pictures = fitted.load(Path("data/scenes/s1"), size, None)
    chosen = EvaluationSettings.read(json.loads(settings(options, 1)), "evaluation")
    subject = Subject(clip, None, 0, class_names("scenes"), templates("scenes"))
    ready = [part.to(clip.device) for part in pictures.images.split(options.batch_size)]

    def bare() -> None:
        for part in ready:
            encode(clip, part, options.precision)

    def whole() -> None:
        evaluate(subject, pictures, chosen)

    def rate(work) -> float:
        work()
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return len(pictures) / (time.perf_counter() - start)

    with torch.no_grad():
        bare_rate, whole_rate = rate(bare), rate(whole)
    say(f"bare forward pass {bare_rate:.0f} pictures/s, evaluation {whole_rate:.0f}: {whole_rate / bare_rate:.0%}")


def run(script: str, *arguments: object) -> None:
    command = [sys.executable, "-m", f"scripts.{script}", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def memory(cost: dict) -> str:
    return f"{cost['peak_memory_bytes'] / 2**20:.0f} MiB"


if __name__ == "__main__":
    main()
