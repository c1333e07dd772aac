"""Evaluation sets: decoded and resized once, read in parts, the same pictures as from the shards."""

import json
import resource
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import create_model
from antidote.data import fitted
from antidote.data.pairs import load_rows
from antidote.data.store import ingest
from antidote.data.store.datasets import dataset_settings
from antidote.evaluation.settings import EvaluationSettings
from antidote.evaluation.subject import Subject
from antidote.evaluation.zero_shot import batches, evaluate

COUNT, SIZE = 30, 24


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A split of three shards whose pictures are larger than they are read."""
    folder = tmp_path_factory.mktemp("data") / "d" / "s"
    settings = {"source": "scenes", "pairs_per_shard": 12, "splits": {"s": {"pairs": COUNT, "seed": 9}}}
    ingest.write(dataset_settings("d", {"d": settings}), "d", "s", folder)
    return folder


@pytest.fixture
def made(split):
    fitted.write(split, SIZE, None)
    yield split
    for path in split.glob("pictures-*"):
        path.unlink()


def badnet(size=32):
    kind = method("attack", "badnet")
    return Trigger(kind(kind.Settings.read({"method": "badnet", "preset": "cleanclip"}, "x"), "cup", size), 5)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("pictures", [None, 7, COUNT, 99])
def test_pictures_are_those_of_the_shards(split, monkeypatch, stored, pictures):
    monkeypatch.setattr(fitted, "CHUNK_BYTES", 4 * 3 * SIZE**2)  # four at a time
    whole = load_rows(split, None, SIZE)
    if pictures and pictures < COUNT:
        whole = whole.take(torch.linspace(0, COUNT - 1, pictures).long())
    if stored:
        assert fitted.write(split, SIZE, pictures) == len(whole)
    found = fitted.load(split, SIZE, pictures)
    assert (found.keys, found.captions) == (whole.keys, whole.captions) and torch.equal(found.labels, whole.labels)
    assert found.images.shape == whole.images.shape and len(found) == len(whole) == len(found.images)
    assert torch.equal(torch.cat(list(found.images.split(4))), whole.images)
    for path in split.glob("pictures-*"):
        path.unlink()


def test_the_file_is_one_that_numpy_reads(made):
    array = np.load(made / f"pictures-{SIZE}.npy", mmap_mode="r")
    assert array.dtype == np.uint8 and np.array_equal(array, load_rows(made, None, SIZE).images.numpy())


def test_stored_pictures_are_indexed_like_a_tensor(made):
    stored, whole = fitted.load(made, SIZE, None).images, load_rows(made, None, SIZE).images
    for rows in (3, -1, slice(2, 9), slice(None, None, 5), [4, 5, 6, 1, 1, 29], torch.tensor([8, 2]),
                 torch.arange(COUNT) % 3 == 0, torch.zeros(COUNT, dtype=torch.bool), slice(5, 5)):  # fmt: skip
        assert torch.equal(stored[rows], whole[rows])
    stored[0].zero_()
    assert torch.equal(stored[0], whole[0]), "what is read is the reader's own"


@pytest.mark.parametrize("name", ["badnet", "blended"])
def test_scores_are_those_of_pictures_in_memory(made, make_clip, name):
    kind = method("attack", name)
    trigger = Trigger(kind(kind.Settings.read({"method": name, "preset": "cleanclip"}, "x"), "cup", 32), 5)
    fitted.write(made, 32, None)
    settings = EvaluationSettings(dataset="d", split="s", batch_size=8)
    classes = [f"thing {number}" for number in range(24)]
    stored, whole = fitted.load(made, 32, None), load_rows(made, None, 32)
    subject = Subject(make_clip("rn"), trigger, 2, classes, ["a {}"])
    found = [evaluate(subject, pictures, settings) for pictures in (stored, whole)]
    assert found[0] == found[1]


# --- what is wrong with them -----------------------------------------------------------------------------------------


def test_another_version_of_the_split_is_told(made):
    path = made / f"pictures-{SIZE}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "index_sha256": "0"}))
    with pytest.raises(UserError) as error:
        fitted.load(made, SIZE, None)
    assert str(error.value) == f"{path}: its pictures are of another version of this split; delete it"


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:-1000]), lambda path: path.unlink()]
)
def test_a_damaged_file_is_told(made, damage):
    path = made / f"pictures-{SIZE}.npy"
    damage(path)
    with pytest.raises(UserError) as error:
        fitted.load(made, SIZE, None)
    assert str(error.value) == f"{path}: is missing or truncated; delete {path.with_suffix('.json')}"


def test_a_half_written_file_does_not_count(made, monkeypatch):
    """Nor does it take the place of the pictures of before."""
    array = made / f"pictures-{SIZE}.npy"
    before = array.read_bytes() if array.exists() else None

    def broken(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("antidote.data.store.images.load_pictures", broken)
    with pytest.raises(KeyboardInterrupt):
        fitted.write(made, SIZE, None)
    monkeypatch.undo()
    assert not list(made.glob(".*")) and (array.read_bytes() if array.exists() else None) == before
    assert torch.equal(fitted.load(made, SIZE, None).images[:], load_rows(made, None, SIZE).images)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [40, 400])
def test_each_picture_is_read_once_and_a_batch_at_a_time(count, make_clip, make_pairs):
    whole, asked = make_pairs(count, classes=7), []

    def read(rows):
        asked.append(list(rows))
        return whole.images[rows].numpy()

    trigger = badnet()
    pairs = replace(whole, images=fitted.StoredPictures(count, 32, read))
    settings = EvaluationSettings(dataset="d", split="s", batch_size=8)
    subject = Subject(make_clip(), trigger, 2, list("abcdefg"), ["{}"])
    assert evaluate(subject, pairs, settings) == evaluate(subject, whole, settings)
    assert [row for rows in asked for row in rows] == list(range(count)) and max(map(len, asked)) == 8


@pytest.mark.parametrize("count", [0, 1, 7, 8, 20])
def test_reading_ahead_changes_nothing(make_pairs, count, monkeypatch):
    """As it is done for a GPU, which the pictures are moved to before the trigger is drawn."""
    pairs, drawn, cpu, seen = make_pairs(count), badnet(), torch.device("cpu"), []
    to = torch.Tensor.to

    def moved(tensor, *where, **more):
        if where == (gpu,):
            seen.append(len(tensor))
            return tensor
        return to(tensor, *where, **more)

    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.Tensor, "to", moved)
    for trigger in (None, drawn):
        here, ahead = (list(batches(pairs, 4, trigger, device)) for device in (cpu, gpu))
        assert sum(seen) == count
        seen.clear()
        assert len(here) == len(ahead) == -(-count // 4)
        for one, other in zip(here, ahead, strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])
            assert (one[1] is other[1] is None) if trigger is None else torch.equal(one[1], other[1])


def test_the_thread_that_reads_ahead_draws_nothing(make_pairs, monkeypatch):
    """Drawing sets the precision of the whole process, in which the model would compute what is encoded meanwhile."""
    gpu, to, trigger, threads = torch.device("cuda"), torch.Tensor.to, badnet(), {"read": [], "drawn": []}

    def moved(tensor, *where, **more):
        if where == (gpu,):
            threads["read"].append(threading.get_ident())
            return tensor
        return to(tensor, *where, **more)

    def apply(images, seeds):
        assert not torch.backends.cudnn.allow_tf32
        threads["drawn"].append(threading.get_ident())
        return images

    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(trigger.attack, "apply", apply)
    assert [torch.backends.cudnn.allow_tf32 for _ in batches(make_pairs(12), 4, trigger, gpu)] == [True] * 3
    assert threads["drawn"] == [threading.get_ident()] * 3
    assert len(threads["read"]) == 3 and threading.get_ident() not in threads["read"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("RN50", 3.0), ("ViT-B-32", 3.0)])
def test_a_batch_through_a_model_of_full_size(name, most, make_pairs):
    """Random weights at 224 px, clean and triggered; `most` GiB of memory beside the model's own."""
    clip = create_model(ModelSettings(name=name), 0)
    pairs, settings = make_pairs(16, size=224), EvaluationSettings(dataset="d", split="s", batch_size=16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = evaluate(Subject(clip, badnet(224), 2, list("abcde"), ["a photo of a {}."]), pairs, settings)
    assert 0 <= found["asr1"] <= 1 and found["pictures"] == 16
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < most * 2**20
