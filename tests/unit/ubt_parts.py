"""What the tests of UBT and of its suspicion share: settings, a contrastive loss, a model that sees colours."""

import random
from contextlib import nullcontext
from dataclasses import replace
from typing import ClassVar

import torch

from antidote.defenses import ubt
from antidote.training.objectives import Batch
from antidote.training.recipe import TrainSettings

RECIPE = TrainSettings(epochs=1, batch_size=4, warmup=0)


def unit(rows, seed):
    values = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return values / values.norm(dim=1, keepdim=True)


def seen(views):
    """Return a batch with these views."""
    return Batch(None, [], None, 0, 0, random.Random(0), views)


def settings(**values):
    return ubt.UBTSettings.read({"overfit": RECIPE.model_dump(), "training": RECIPE.model_dump(), **values}, "ubt")


LOOKS = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.05, 0.5, 0.4])  # of ten pairs; the lowest are suspicious


class Plain:
    """In the place of a CLIP: a picture's feature is its mean colour, a caption's is that of its word."""

    network, device, size = torch.nn.Module(), torch.device("cpu"), 2
    COLOURS: ClassVar = {"red": (1.0, 0, 0), "green": (0, 1.0, 0), "blue": (0, 0, 1.0)}

    def encode_image(self, images):
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        return torch.nn.functional.normalize(images.mean(dim=(2, 3)), dim=1)

    def encode_text(self, texts):
        return torch.tensor([self.COLOURS[text] for text in texts])

    def autocast(self, precision):
        return nullcontext()


def coloured(make_pairs, colours, captions=None):
    pairs = replace(make_pairs(len(colours), size=2), captions=list(captions or colours))
    values = torch.tensor([Plain.COLOURS[colour] for colour in colours]).mul(255).byte()
    return replace(pairs, images=values.view(-1, 3, 1, 1).expand(-1, 3, 2, 2).clone())
