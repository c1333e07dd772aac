"""RN50 and ViT-B/32 at 224 pixels on the CPU: a step of training on streamed shards, a batch of evaluation, in few GB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GB = 1e9
# Weights, gradients and AdamW's two moments are 1.6 and 2.4 GB; the activations of 8 pictures, Python and torch 1.5 GB.
BOUND = {"RN50": 4.0, "ViT-B-32": 4.5}
RUN = """
import json, resource, sys
from pathlib import Path
import numpy as np
import pandas as pd
from antidote.clip.folder import create_model
from antidote.data import pools
from antidote.data.store import ingest
from antidote.data.store.images import encode_jpeg
from antidote.data.pairs import load_pools
from antidote.data.sources.base import RawPair, SourceSettings
from antidote.data.streaming import Pictures, Reading
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import evaluate
from antidote.clip.configs import ModelSettings
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work
from antidote.training.loop import train

folder = Path(sys.argv[1])


class Noise(SourceSettings):
    source: str = "noise"
    splits: dict[str, None] = {"train": None}

    def iterate(self, split):
        rng = np.random.default_rng(0)
        for number in range(8):
            yield RawPair(f"k{number}", encode_jpeg(rng.integers(0, 256, (256, 300, 3), np.uint8)), [f"a cup {number}"], 0)


ingest.write(Noise.read({}, "noise"), "noise", "train", folder / "noise" / "train")
table = pd.DataFrame({"key": [f"k{number}" for number in range(8)], "dataset": "noise", "split": "train"})
pools.write(folder / "pools.parquet", table.assign(pool="training", position=range(8))[pools.COLUMNS])
clip = create_model(ModelSettings(name=sys.argv[2]), seed=0)
pairs = load_pools(folder / "pools.parquet", ["training"], folder, clip.size, reading=Reading(0, 1))
assert isinstance(pairs.images, Pictures) and clip.size == 224
before = clip.network.text_projection.detach().clone()
report = train(clip, Contrastive(pairs), TrainSettings(epochs=1, batch_size=8, warmup=0), 0, Work(folder, "x", 1e9))
assert report.steps == 1 and not before.equal(clip.network.text_projection)
held = load_pools(folder / "pools.parquet", ["training"], folder, clip.size)
settings = EvaluationSettings(dataset="noise", split="train", bootstrap=100)
scores = evaluate(Subject(clip, None, 0, ["cup", "boat"], ["a photo of a {}."]), held, settings)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "ca1": scores["ca1"], "log": (folder / "train.jsonl").read_text()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", BOUND)
def test_a_step_and_a_batch_at_full_size(model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path, model], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0 < json.loads(found["log"])["loss"] < 10 and 0 <= found["ca1"] <= 1
    assert found["peak"] < BOUND[model] * GB, f"{found['peak'] / GB:.2f} GB"
