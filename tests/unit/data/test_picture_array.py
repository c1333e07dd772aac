"""Pictures in memory, stored at the model's size, and streamed from their shards are used in the same way."""

import dataclasses

import pytest
import torch

from antidote.data import fitted, streaming
from antidote.data.pairs import Pairs, load_rows
from antidote.data.picture_array import PictureArray
from antidote.data.store import ingest, shards
from antidote.data.store.datasets import dataset_settings
from antidote.data.streaming import Reading

COUNT, SIZE = 10, 24
KINDS = ["held", "stored", "decoded", "streamed"]
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Return the same pictures in every form, by its name, and the pairs that they belong to."""
    folder = tmp_path_factory.mktemp("data") / "d" / "s"
    settings = {"source": "scenes", "pairs_per_shard": 4, "splits": {"s": {"pairs": COUNT, "seed": 9}}}
    ingest.write(dataset_settings("d", {"d": settings}), "d", "s", folder)
    pairs = load_rows(folder, None, SIZE)
    rows = shards.find_rows(folder, pairs.keys, ["shard", "offset", "size"])
    found = {"held": pairs.images, "streamed": streaming.pictures(folder, rows, SIZE, Reading(0, 0))}
    found["decoded"] = fitted.load(folder, SIZE, None).images
    fitted.write(folder, SIZE, None)
    found["stored"] = fitted.load(folder, SIZE, None).images
    return found, pairs


@EVERY
def test_shape_and_length(arrays, kind):
    images = arrays[0][kind]
    assert tuple(images.shape) == (COUNT, 3, SIZE, SIZE) and len(images) == COUNT
    assert isinstance(images, PictureArray) == (kind != "held")


@EVERY
@pytest.mark.parametrize(
    "rows",
    [3, -1, slice(None), slice(2, 9, 3), [7, 0, 7], [], torch.tensor([4, 2]), torch.arange(COUNT) % 3 == 0],
    ids=repr,
)
def test_an_index_is_a_tensors(arrays, kind, rows):
    found, held = arrays[0][kind][rows], arrays[0]["held"][rows]
    assert torch.equal(found, held) and found.dtype == torch.uint8 and found.shape == held.shape


@EVERY
def test_splitting_gives_all_in_order(arrays, kind):
    parts = list(arrays[0][kind].split(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), arrays[0]["held"])


@EVERY
def test_a_row_that_is_not_there_is_an_error(arrays, kind):
    with pytest.raises(IndexError):
        arrays[0][kind][[COUNT]]


@EVERY
def test_pairs_take_rows_of_them(arrays, kind):
    arrays, held = arrays
    pairs = dataclasses.replace(held, images=arrays[kind])
    taken = pairs.take([5, 1, 5])
    assert isinstance(taken, Pairs) and taken.keys == [held.keys[row] for row in (5, 1, 5)]
    assert torch.equal(taken.images[:], held.images[[5, 1, 5]]) and tuple(taken.images.shape) == (3, 3, SIZE, SIZE)
    assert torch.equal(taken.take([2]).images[:], held.images[[5]])
