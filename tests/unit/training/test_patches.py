"""Many searches of the smallest working trigger at once."""

import pytest
import torch

from antidote.clip.model import autocast
from antidote.training import patches
from antidote.training.patches import SearchSettings, at_once, search, still, together, toward
from antidote.training.session import Work


class Corner:
    """A model whose backdoor is a white top left corner of 4 pixels; a bright picture is of class 1."""

    device = torch.device("cpu")
    network = torch.nn.Linear(1, 1)

    def autocast(self, precision):
        return autocast("cpu", precision)

    def encode_image(self, images):
        corner, rest = images[:, :, :4, :4].mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3))
        features = torch.stack([6 * (corner - 0.5), 1.2 * rest, 0.5 * torch.ones_like(rest)], dim=1)
        return features / features.norm(dim=1, keepdim=True)


def grey(count=16):
    return torch.randint(60, 130, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def found(folder, goals=None, count=3, wanted=0.97, **changes):
    settings = SearchSettings(steps=150, batch_size=8, lr=0.2, mask_cell=4, **changes)
    goals = goals or toward(torch.eye(3), 0.07)
    return search(Corner(), grey(), goals, wanted, count, settings, 0, Work(folder, "x"))


def test_the_backdoor_has_the_smallest_trigger(tmp_path):
    one = found(tmp_path, count=2)  # class 2 is that of grey pictures
    assert one.masks.shape == (2, 16, 16) and one.patterns.shape == (2, 3, 16, 16)
    assert one.works[0] and one.areas[0] == one.areas.min() < 0.1
    assert one.masks[0, :4, :4].mean() > 4 * one.masks[0, 4:].mean(), "the mask is where the backdoor is"
    features = Corner().encode_image(patches.draw(grey() / 255, one.masks[:1], one.patterns[:1]))
    assert (features.argmax(dim=1) == 0).double().mean() > 0.9
    assert one.areas[0] == pytest.approx(float(one.masks[0].mean()), abs=1e-6)


def test_searches_do_not_depend_on_each_other(tmp_path):
    whole, apart = found(tmp_path / "whole"), found(tmp_path / "apart", together=1)
    assert torch.allclose(whole.masks, apart.masks, atol=1e-4) and torch.allclose(whole.areas, apart.areas, atol=1e-4)


def test_a_search_without_success_counts_the_whole_picture(tmp_path):
    never = found(tmp_path, wanted=1.1)
    assert not never.works.any() and never.areas.tolist() == [1, 1, 1]


def test_a_killed_search_goes_on(tmp_path, monkeypatch):
    whole, calls, plain = found(tmp_path / "whole"), [], patches.Search._note

    def dies(self, *given):
        calls.append(1)
        if len(calls) == 60:
            raise KeyboardInterrupt
        plain(self, *given)

    settings = SearchSettings(steps=150, batch_size=8, lr=0.2, mask_cell=4)
    monkeypatch.setattr(patches.Search, "_note", dies)
    given = (Corner(), grey(), toward(torch.eye(3), 0.07), 0.97, 3, settings, 0)
    with pytest.raises(KeyboardInterrupt):
        search(*given, Work(tmp_path / "killed", "x", every=0))
    monkeypatch.setattr(patches.Search, "_note", plain)
    again = search(*given, Work(tmp_path / "killed", "x"))
    assert torch.equal(whole.masks, again.masks) and torch.equal(whole.areas, again.areas)


def test_goals_equal_their_formulas():
    z = torch.nn.functional.normalize(torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)), dim=2)
    loss, likeness = together(None)(z, None)
    pairs = [float(z[1, i] @ z[1, j]) for i in range(4) for j in range(4) if i != j]
    assert float(likeness[1]) == pytest.approx(sum(pairs) / 12, abs=1e-6) and torch.equal(loss, -likeness)
    centres = torch.eye(3)
    loss, hits = toward(centres, 0.5)(torch.tensor([2, 0]))(z, None)
    own = [-float(torch.log_softmax(z[0, i] @ centres.T / 0.5, 0)[2]) for i in range(4)]
    assert float(loss[0]) == pytest.approx(sum(own) / 4, abs=1e-5)
    assert float(hits[1]) == pytest.approx(float((z[1].argmax(dim=1) == 0).double().mean()))


def test_a_network_is_still_and_then_as_before():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    network[1].eval()
    network[0].bias.requires_grad_(False)
    with still(network):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert network.training and network[0].training and not network[1].training
    assert network[0].weight.requires_grad and not network[0].bias.requires_grad


def test_searches_on_large_pictures_run_fewer_at_once():
    assert at_once(32, 16, 32) == 32, "small pictures: as the setting says"
    assert [at_once(32, 16, 224), at_once(32, 32, 224), at_once(32, 256, 448)] == [4, 2, 1]
