"""What the unit tests share: tiny CLIP models with random weights, a few pairs, one thread, no network."""

import copy
import logging
import os
import sys
from pathlib import Path

# Before torch and huggingface_hub are imported, which read them once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("ANTIDOTE_CACHE", None)  # no test takes what another run has made

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `scripts`, which are not installed

import pytest
from captions import CAPTIONS

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "vit": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
    "rn": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
}


@pytest.fixture(autouse=True)
def _log_as_before():
    """Undo what a command changes in the log; a command sets up the log once, for the whole process."""
    log, root = logging.getLogger("antidote"), logging.getLogger()
    level, disabled = log.level, root.manager.disable
    filters = {handler: list(handler.filters) for handler in root.handlers}
    yield
    log.setLevel(level)
    logging.disable(disabled)
    for handler, before in filters.items():
        handler.filters[:] = before


@pytest.fixture(scope="session")
def _networks():
    """One random network per kind; tests get copies."""
    import open_clip
    import torch

    torch.set_num_threads(1)
    made = {}
    for kind, vision in VISION.items():
        torch.manual_seed(0)
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
        made[kind] = (open_clip.CLIP(**copy.deepcopy(config)).eval(), config)
    return made


@pytest.fixture
def make_clip(_networks):
    """Return a maker of equal tiny models: `make_clip("vit")` has no batch norm, `make_clip("rn")` has."""
    from antidote.clip.model import Clip

    def make(kind="vit"):
        network, config = _networks[kind]
        preprocess = {
            "mean": [0.48, 0.46, 0.41],
            "std": [0.27, 0.26, 0.28],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        }
        return Clip(copy.deepcopy(network), copy.deepcopy({"model_cfg": config, "preprocess_cfg": preprocess}))

    return make


@pytest.fixture
def make_pairs():
    """Return a maker of pairs: random pictures, captions of the scenes' words, labels 0, 1, 2, ..."""
    import torch

    from antidote.data.pairs import Pairs

    def make(count=20, size=32, classes=5, captions=CAPTIONS, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return Pairs(
            keys=[f"pair{number}" for number in range(count)],
            images=torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8),
            captions=[captions[number % len(captions)] for number in range(count)],
            labels=torch.arange(count) % classes,
        )

    return make


@pytest.fixture(scope="session")
def scenes_lexicon():
    from antidote.data.words.lexicon import load_lexicon

    return load_lexicon("scenes")


# Settings that make any method small enough for a test, by name, or the least that a method takes; what a method lacks
# is left out.
SMALL = {
    "epochs": 1,
    "batch_size": 4,
    "warmup": 1,
    "samples_per_epoch": 4,
    "steps": 2,
    "inversion_steps": 2,
    "prompts": 2,
    "depth": 1,
    "classes_per_step": 3,
    "width": 8,
    "pictures": 1,
}


@pytest.fixture(scope="session")
def small():
    """Return what turns a settings class into small settings: as a dict, groups of settings included."""

    def shrink(kind):
        values = {}
        for name, field in kind.model_fields.items():
            if name in SMALL:
                values[name] = max([SMALL[name], *(bound.ge for bound in field.metadata if hasattr(bound, "ge"))])
            elif hasattr(field.annotation, "model_fields"):
                values[name] = shrink(field.annotation)
        return values

    return shrink
