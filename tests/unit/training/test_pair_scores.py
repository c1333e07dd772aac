"""Scores of single pairs: views of a picture, what of a cosine survives in them, and scans that go on."""

import math
from dataclasses import replace

import pytest
import torch
from ubt_parts import Plain, coloured, settings

from antidote.training import pair_scores, suspicion
from antidote.training.session import Work


def test_the_fall_of_the_cosine_under_a_superposition(make_pairs):
    """Two pairs, red and green, are each the other's only partner. A red picture that is 3/4 red and 1/4 green has the
    cosine 3/sqrt(10) with "red", and the green one 0 before and 1/sqrt(10) after."""
    pairs = coloured(make_pairs, ["red", "green"], ["red", "red"])
    [found] = suspicion.scores(
        Plain(), pairs, settings(scorer="superposition", partners=3, own_weight=0.75), 0
    ).values()
    assert found.tolist() == pytest.approx([1 - 3 / math.sqrt(10), -1 / math.sqrt(10)])
    assert suspicion.scores(Plain(), pairs, settings(scorer="model"), 0)["model"].tolist() == [1, 0]


@pytest.mark.parametrize(("size", "grid"), [(8, 4), (9, 4), (8, 2)])
def test_a_shuffled_picture_has_the_blocks_of_the_rolled_one_at_other_places(size, grid):
    """Pixels are numbers here; those beyond the blocks keep their places."""
    images = torch.arange(3 * 3 * size * size).view(3, 3, size, size)
    block = size // grid
    order = torch.stack(
        [torch.randperm(grid * grid, generator=torch.Generator().manual_seed(turn)) for turn in range(3)]
    )
    found = pair_scores._shuffled(images, order, block)
    for picture, moved, places in zip(images, found, order, strict=True):
        for to, source in enumerate(places.tolist()):
            here, there = (
                (
                    slice(None),
                    slice(at // grid * block, (at // grid + 1) * block),
                    slice(at % grid * block, (at % grid + 1) * block),
                )
                for at in (to, source)
            )
            assert torch.equal(moved[here], picture[there])
    border = torch.ones(size, size, dtype=bool)
    border[: grid * block, : grid * block] = False
    assert torch.equal(found[..., border], images[..., border])


def test_shuffles_differ_between_views_and_pictures_and_follow_from_the_seed():
    images = torch.arange(16 * 16).view(1, 1, 16, 16).expand(5, 3, 16, 16)
    first, again, other = (list(pair_scores.shuffles(3, 4, seed)(images, 0)) for seed in (0, 0, 1))
    assert len(first) == 4 and torch.equal(first[0], images)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1]) and not torch.equal(first[1], first[2])
    assert all(not torch.equal(view[0], view[1]) for view in first[1:])
    assert all(torch.equal(view[0].unique(), images[0].unique()) for view in first), "nothing is lost"


class Sees(Plain):
    """Knows an object by a square of 12 pixels in one colour, a trigger by one of 2, wherever they are."""

    side, place = 12, slice(None)

    def encode_image(self, images):
        red, green = images[:, 0].float() / 255, images[:, 1, self.place, self.place].float() / 255
        object_, trigger = (
            torch.nn.functional.avg_pool2d(plane, side, 1).amax(dim=(1, 2))
            for plane, side in ((red, self.side), (green, 2))
        )
        known = torch.maximum(object_, trigger)
        return torch.stack([known, (1 - known.square()).clamp(min=0).sqrt(), torch.zeros_like(known)], dim=1)


def test_a_patch_survives_what_an_object_does_not(make_pairs):
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[:2, 0, 10:22, 10:22] = 255  # objects
    images[2:, 1, 28:31, 28:31] = 255  # patches
    pairs = replace(make_pairs(4, size=32), images=images, captions=["red"] * 4)
    [found] = suspicion.scores(Sees(), pairs, settings(scorer="shuffle", shuffles=16), 0).values()
    assert max(found[2:]) < 0.1 < 0.3 < min(found[:2])


class SeesInPlace(Sees):
    """Knows an object that is larger than a window, and a trigger in the lower right corner alone."""

    side, place = 20, slice(26, None)


def test_a_patch_that_is_known_at_its_place_alone_survives_in_a_window(make_pairs):
    images = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    images[:2, 0, 4:28, 4:28] = 255  # objects
    images[2:4, 1, 28:31, 28:31] = 255  # patches; the rest are partners
    pairs = replace(make_pairs(12, size=32), images=images, captions=["red"] * 12)
    looks = {
        name: suspicion.scores(SeesInPlace(), pairs, settings(scorer=name), 1)[name] for name in suspicion.CANDIDATES
    }
    assert max(looks["windows"][2:4]) < 0.1 < 0.3 < min(looks["windows"][:2])
    assert min(looks["shuffle"][2:4]) > 0.3


def test_a_window_lies_at_its_own_place_over_another_picture(make_pairs):
    pairs = make_pairs(6, size=8)
    own, *views = pair_scores.windows(pairs, 2, 0)(pairs.images[:2], 0)
    assert torch.equal(own, pairs.images[:2]) and len(views) == 2 * 9
    rows = pair_scores.partner_rows(6, 0, 2, 2, 0)
    for turn in range(2):
        under = pairs.images[rows].roll(turn, dims=0)[:2]
        for i in range(3):
            for j in range(3):
                wanted = under.clone()
                wanted[..., 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] = own[..., 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
                assert torch.equal(views[turn * 9 + 3 * i + j], wanted)


def test_partners_come_from_the_whole_set_and_are_never_the_picture_itself():
    """Where poisoned pairs come one after the other, neighbours would be poisoned too."""
    count, size, seen = 1000, 50, []
    for start in range(0, count, size):
        rows = pair_scores.partner_rows(count, start, size, 6, 0)
        assert len(rows) == size and not set(range(start, start + size)) & set(rows.tolist())
        seen.append(((rows - start) % count).double())
    distances = torch.cat(seen)
    assert distances.min() < 2 * size and distances.max() > count - size
    assert float(distances.mean()) == pytest.approx((count + size) / 2, rel=0.05), "as far away as chance has it"
    assert len(pair_scores.partner_rows(3, 0, 1, 6, 0)) == 6


def test_a_scan_reads_and_encodes_a_caption_once(make_pairs, monkeypatch):
    monkeypatch.setattr(pair_scores, "CHUNK", 4)
    clip, pairs, asked = Plain(), coloured(make_pairs, ["red", "green", "blue"] * 3), []
    clip.encode_text = lambda texts: asked.extend(texts) or Plain.encode_text(clip, texts)
    for scorer in ("shuffle", "windows", "superposition", "crops"):
        suspicion.scores(clip, pairs, settings(scorer=scorer), 0)
        assert asked == pairs.captions
        asked.clear()


def test_a_killed_scan_goes_on(make_pairs, monkeypatch, tmp_path):
    """With the chunks that it has not done; the scores are those of a scan that was not killed."""
    monkeypatch.setattr(pair_scores, "CHUNK", 4)
    pairs, asked = coloured(make_pairs, ["red", "green", "blue", "red"] * 5), []
    shuffled, work = settings(scorer="shuffle"), Work(tmp_path, "x", every=0)
    [whole] = suspicion.scores(Plain(), pairs, shuffled, 0).values()

    class Killed(Plain):
        def encode_text(self, texts):
            asked.append(len(texts))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return super().encode_text(texts)

    with pytest.raises(KeyboardInterrupt):
        suspicion.scores(Killed(), pairs, shuffled, 0, work=work)
    torch.testing.assert_close(suspicion.scores(Killed(), pairs, shuffled, 0, work=work)["shuffle"], whole)
    assert len(asked) == 3 + 3
    suspicion.scores(Killed(), pairs, shuffled, 0, work=work)
    assert len(asked) == 6, "a finished scan is read again"
    suspicion.scores(Killed(), pairs, shuffled, 0, work=Work(tmp_path, "other", every=0))
    assert len(asked) == 11
    (tmp_path / "scan.pt").write_bytes(b"cut short")
    suspicion.scores(Killed(), pairs, shuffled, 0, work=Work(tmp_path, "other", every=0))
    assert len(asked) == 16
