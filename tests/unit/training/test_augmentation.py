"""AutoAugment of a batch against torchvision's, picture by picture."""

import pytest
import torch
from torchvision.transforms import v2 as transforms

from antidote.training.augmentation import auto_augment


def smooth(count, size):
    """Return pictures with few values and dark channels among noisy ones."""
    noise = torch.rand(count, 3, size, size)
    noise[::3] = torch.nn.functional.avg_pool2d(noise[::3], 9, stride=1, padding=4) * torch.rand(
        len(noise[::3]), 3, 1, 1
    )
    noise[1] = 0.5
    return noise.mul(255).to(torch.uint8)


@pytest.mark.parametrize("size,count", [(32, 256), (65, 64)])
@pytest.mark.parametrize("seed", range(3))
def test_pictures_and_draws_are_torchvisions(size, count, seed):
    torch.manual_seed(seed)
    images = smooth(count, size)
    one = transforms.AutoAugment()
    torch.manual_seed(seed)
    expected, following = torch.stack([one(image) for image in images]), torch.rand(3)
    torch.manual_seed(seed)
    before = images.clone()
    assert torch.equal(auto_augment(images), expected)
    assert torch.equal(torch.rand(3), following), "the generator goes on as after torchvision's draws"
    assert torch.equal(images, before)


def test_no_picture_is_no_fault():
    assert auto_augment(torch.zeros(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)
