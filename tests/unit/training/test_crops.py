"""Random crops and mirror images of a batch, against torchvision's and against a run that was killed."""

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

from antidote.base.errors import UserError
from antidote.training.batches import read_batch
from antidote.training.crops import augmented, cut, draw
from antidote.training.loop import train
from antidote.training.objectives import Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work


def settings(**changes):
    return TrainSettings(**{"epochs": 3, "batch_size": 8, "lr": 0.01, "warmup": 2, **changes})


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=6, size=32):
    coarse = torch.randint(0, 256, (count, 3, size // 4, size // 4), generator=stream()).float()
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").byte()


def test_cut_is_torchvisions_resized_crop():
    images, crops = pictures(), draw(settings(crop_scale=[0.3, 0.9], flip=0.5), 6, 32, stream())
    assert crops.mirrored.any() and not crops.mirrored.all()
    for image, own, top, left, height, width, mirrored in zip(
        images, cut(images, crops), *vars(crops).values(), strict=True
    ):
        box = [int(value) for value in (top, left, height, width)]
        other = functional.resized_crop(image, *box, [32, 32], interpolation=3, antialias=False)
        other = other.flip(-1) if mirrored else other
        inner = (own.int() - other.int()).abs()[:, 4:-4, 4:-4]  # the border of a crop is interpolated in another way
        assert inner.max() <= 1


def test_a_crop_of_the_whole_picture_changes_nothing():
    images = pictures()
    assert torch.equal(cut(images, draw(settings(crop_scale=[1, 1], crop_ratio=[1, 1]), 6, 32, stream())), images)
    assert torch.equal(cut(images, draw(settings(flip=1), 6, 32, stream())), images.flip(-1))


def test_draws_are_spread_as_torchvisions():
    """Mean area, mean ratio and mean position over many crops."""
    count, image = 4000, torch.zeros(1, 32, 32)
    crops = draw(settings(crop_scale=[0.5, 1.0]), count, 32, stream())
    ours = torch.stack([crops.top, crops.left, crops.height, crops.width, crops.height * crops.width]).double().mean(1)
    torch.manual_seed(0)
    boxes = torch.tensor([RandomResizedCrop.get_params(image, [0.5, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    theirs = torch.cat([boxes.double().mean(0), (boxes[:, 2] * boxes[:, 3]).double().mean()[None]])
    assert torch.allclose(ours, theirs, rtol=0.04, atol=0.15), (ours, theirs)
    assert (crops.top + crops.height <= 32).all() and (crops.left + crops.width <= 32).all()


def test_a_shape_that_never_fits_gives_the_whole_picture():
    crops = draw(settings(crop_scale=[1, 1], crop_ratio=[2, 3]), 5, 32, stream())
    assert (crops.height == 32).all() and (crops.width == 32).all() and (crops.top == 0).all()


def test_a_step_draws_the_same_again_and_another_step_anew(make_clip, make_pairs):
    recipe, pairs, clip = settings(crop_scale=[0.5, 0.9], flip=0.5), make_pairs(8), make_clip()

    def images(step, seed=0, own=lambda rows: rows):
        return augmented(read_batch(clip, pairs, own(torch.arange(8)), 0, step, seed), recipe, seed, own).images

    assert torch.equal(images(0), images(0))
    assert not torch.equal(images(0), images(1)) and not torch.equal(images(0), images(0, seed=1))
    assert torch.equal(images(0, own=lambda rows: rows[5:]), images(0)[5:])  # one of several processes


def test_without_crop_and_flip_the_pictures_are_the_pairs(make_clip, make_pairs):
    pairs = make_pairs(8)
    batch = read_batch(make_clip(), pairs, torch.arange(8), 0, 0, 0)
    assert augmented(batch, settings(), 0, lambda rows: rows) is batch


class Stop(Exception):
    """Stands for a kill without warning."""


def test_a_killed_run_repeats_its_crops(make_clip, make_pairs, tmp_path):
    recipe, pairs = settings(crop_scale=[0.5, 0.9], flip=0.5), make_pairs()
    seen = {}

    class Watched(Contrastive):
        stop = None

        def views(self, batch):
            if batch.step == self.stop:
                raise Stop
            assert torch.equal(seen.setdefault(batch.step, batch.images), batch.images)
            return super().views(batch)

    def work(name):
        return Work(tmp_path / name, "a run", 0.0)

    whole, resumed = make_clip(), make_clip()
    train(whole, Watched(pairs), recipe, 0, work("whole"))
    killed = Watched(pairs)
    killed.stop = 4
    with pytest.raises(Stop):
        train(make_clip(), killed, recipe, 0, work("killed"))
    train(resumed, Watched(pairs), recipe, 0, work("killed"))
    expected = whole.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.network.state_dict().items())
    assert len({images.float().mean().item() for images in seen.values()}) == len(seen) == 6


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"crop_ratio": [2, 1]}, "crop_ratio: .*should name the least ratio first"),
        ({"crop_scale": [0.9, 0.5]}, "crop_scale"),
        ({"crop_scale": [0.9, 1.5]}, "crop_scale"),
        ({"crop_ratio": [0, 1]}, "crop_ratio"),
        ({"flip": 2}, "flip"),
    ],
)
def test_values_out_of_range_are_one_line(values, line):
    with pytest.raises(UserError, match=line):
        TrainSettings.read(values, "a study")
