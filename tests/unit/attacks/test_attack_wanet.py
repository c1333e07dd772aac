"""WaNet: how far pixels move, and whether neighbours move together."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from antidote.attacks.wanet import WaNet, WaNetSettings
from antidote.base.errors import UserError


def wanet(size=224, **values):
    attack = WaNet(WaNetSettings.read({"method": "wanet", **values}, "x"), "banana", size)
    attack.tensors = attack.fit(None, 0)
    return attack


def shifts(attack):
    """Return by how many pixels each pixel is moved: (size, size, 2)."""
    line = torch.linspace(-1, 1, attack.size)
    identity = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    return (attack.grid() - identity) * (attack.size - 1) / 2


def neighbours(field):
    """Return the correlation between each value and the one to its right."""
    return torch.corrcoef(torch.stack([field[:, :-1].flatten(), field[:, 1:].flatten()]))[0, 1].item()


def test_the_clip_codes_jitter_each_pixel():
    attack = wanet(preset="cleanclip")
    assert attack.tensors["noise"].shape == (2, 224, 224)
    assert attack.tensors["noise"].abs().mean().item() == pytest.approx(1, abs=1e-4)
    moved = shifts(attack)
    assert moved.abs().mean().item() == pytest.approx(0.498, abs=0.005) and moved.abs().max() < 1
    assert abs(neighbours(moved[..., 0])) < 0.02


@pytest.mark.parametrize(("preset", "size", "mean"), [("original", 32, 0.24), ("original_at_224", 224, 1.74)])
def test_the_original_bends_smoothly(preset, size, mean):
    moved = shifts(wanet(size, preset=preset))
    assert neighbours(moved[..., 0]) > 0.9
    assert moved.abs().mean().item() == pytest.approx(mean, rel=0.35), "varies with 4 x 4 draws"


@pytest.mark.parametrize("preset", list(WaNetSettings.presets))
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_pictures_share_one_warp_bit_by_bit(preset, threads):
    """Drawn as channels of few pictures: the values of one picture at a time, of contiguous and other batches."""
    attack = wanet(32, preset=preset)
    images = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0, 1
    grid = attack.grid()[None]
    singles = [F.grid_sample(image[None], grid, mode="bilinear", align_corners=True) for image in images]
    expected = torch.cat(singles).clamp(0, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for count in (0, 1, 4, 6, 7):
            kept = images[:count].clone()
            assert torch.equal(attack.apply(images[:count], range(count)), expected[:count])
            assert torch.equal(images[:count], kept), "the clean pictures stay"
        strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        assert torch.equal(attack.apply(strided, range(7)), expected)
    finally:
        torch.set_num_threads(before)


def test_a_flat_picture_stays():
    image = torch.full((2, 3, 32, 32), 0.3)
    torch.testing.assert_close(wanet(32).apply(image, [1, 2]), image)


def test_points_must_fit():
    with pytest.raises(ValueError, match=r"^points: 33 are more than the picture's 32 pixels$"):
        wanet(64, points=33).settings.check(32)


def test_a_grid_from_a_file_is_the_warp(tmp_path):
    """The grid of a drawn WaNet, stored and read back, with or without the batch's dimension, gives the same pictures."""
    drawn, images = wanet(32, preset="cleanclip"), torch.rand(3, 3, 32, 32)
    for name, grid in (("plain", drawn.grid()), ("batch", drawn.grid()[None])):
        path = tmp_path / f"{name}.safetensors"
        save_file({"grid": grid.contiguous()}, path)
        again = WaNet(WaNetSettings.read({"method": "wanet", "file": str(path)}, "x"), "banana", 32)
        again.settings.check(32)
        again.tensors = again.fit(None, 0)
        assert torch.equal(again.apply(images, range(3)), drawn.apply(images, range(3)))
        assert again.facts["file"] == str(path) and again.settings.files() == [str(path)]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [(torch.zeros(16, 16, 2), r"should hold a grid \(32, 32, 2\) of floats, not \(16, 16, 2\) torch.float32$"),
     (torch.full((32, 32, 2), 1.5), r"a grid's values should be in \[-1, 1\]$")],
)  # fmt: skip
def test_a_file_that_is_no_grid_is_one_line(tmp_path, tensor, message):
    path = tmp_path / "grid.safetensors"
    save_file({"grid": tensor}, path)
    with pytest.raises(UserError, match=rf"^file: .*grid\.safetensors: {message}"):
        WaNet(WaNetSettings.read({"method": "wanet", "file": str(path)}, "x"), "banana", 32).fit(None, 0)
    with pytest.raises(ValueError, match=r"^file: 'gone' is not there$"):
        WaNetSettings.read({"method": "wanet", "file": "gone"}, "x").check(32)
