"""Work folders of commands: a killed run resumes only as itself, whatever the paths are called."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from antidote.base.cache import identity
from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.clip.initial import initial_files
from antidote.data.words.lexicon import lexicon_files
from antidote.training.session import Work

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from antidote.clip.model import Clip
    from antidote.data.access import DefenseData
    from antidote.data.pairs import Pairs
    from antidote.defenses.base import Defense
    from antidote.detectors.base import Detector

ROWS = 256  # pictures of a file that are in memory at once


@contextmanager
def work(output: Path | None, kind: Defense | Detector, clip: Clip, data: DefenseData, lexicon: str) -> Iterator[Work]:
    """Yield the work folder of one method, next to the output.

    The folder's identity covers the method's settings, seed and code, and the content of the model, of the data that
    the method gets, and of the files of a public scorer. The folder is deleted at the end of the block, and if the
    block raises UserError. A run that is killed keeps the folder, from which the same command resumes.

    Args:
        output: folder of the command's results; None: the work folder is temporary, and a killed run starts anew.
        kind: the method with settings and seed.
        lexicon: name of the language resource of `data.lexicon`.

    Raises:
        UserError: the output is the root of the file system, beside which nothing can be written.
    """
    if output is None:
        with tempfile.TemporaryDirectory() as folder, work(Path(folder) / "out", kind, clip, data, lexicon) as made:
            yield made
        return
    place = output.resolve()
    if not place.name:
        raise UserError(f"--output: {output}: should name a folder")
    folder = place.with_name(f"{place.name}.{kind.settings.method}.work")
    made = Work(folder, identity_of(kind, clip, data, lexicon))
    try:
        yield made
    except UserError:
        shutil.rmtree(made.folder, ignore_errors=True)
        raise
    shutil.rmtree(made.folder, ignore_errors=True)


def identity_of(kind: Defense | Detector, clip: Clip, data: DefenseData, lexicon: str) -> str:
    """Return what tells the work of a method from other work; see `work`."""
    words = lexicon_files(lexicon) if data.lexicon is not None else []
    parts = [kind.settings.model_dump(mode="json"), kind.seed, inputs_digest(clip, data, lexicon)]
    return identity(parts, [*words, *initial_files(kind.settings.public)], type(kind).__module__)


def inputs_digest(clip: Clip, data: DefenseData, lexicon: str) -> str:
    """Return the SHA-256 of what a method gets: the model, its data, and the name of the lexicon if it gets one."""
    named = lexicon if data.lexicon is not None else ""
    return hashlib.sha256(f"{model_digest(clip)} {data_digest(data)} {named}".encode()).hexdigest()


def model_digest(clip: Clip) -> str:
    """Return the SHA-256 of a model: its configuration, weights and adapter."""
    description, further = clip.added() or ({}, {})
    digest = hashlib.sha256(repr([clip.config, description]).encode())
    for name, tensor in [*sorted(clip.network.state_dict().items()), *sorted(further.items())]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def data_digest(data: DefenseData) -> str:
    """Return the SHA-256 of the pairs, pictures and names that a method gets; the lexicon is left out."""
    digest = hashlib.sha256(repr([data.classes, data.templates]).encode())
    for pairs in (data.pairs, data.shots, data.pictures):
        digest.update(b"none" if pairs is None else _pairs_digest(pairs))
    if data.training_set is not None:
        digest.update(_pairs_digest(data.training_set))
    return digest.hexdigest()


def _pairs_digest(pairs: Pairs) -> bytes:
    digest = hashlib.sha256(repr([list(pairs.keys), list(pairs.captions), pairs.labels.tolist()]).encode())
    images = pairs.images
    if isinstance(images, torch.Tensor):
        digest.update(_bytes(images))
        return digest.digest()
    for start in range(0, len(images), ROWS):  # in a file, which may be larger than the memory
        digest.update(_bytes(images[torch.arange(start, min(start + ROWS, len(images)))]))
    return digest.digest()


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
