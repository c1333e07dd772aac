"""Every attack of the registry keeps the contract; what BadNet and Blended draw, pixel by pixel."""

import random
from collections import Counter

import pandas as pd
import pytest
import torch

from antidote.attacks.contract import FitContext
from antidote.attacks.trigger import Trigger
from antidote.base.errors import UserError
from antidote.base.registry import ATTACKS, method
from antidote.data.store.images import encode_png, load_pictures

TEMPLATES = ["a photo of a {}.", "the {}"]
SIZE = 32  # what the tiny model reads
VARIANTS = [
    (name, preset)
    for name in ATTACKS
    for preset in (None, *method("attack", name).Settings.presets)
    if method("attack", name).triggered and (not method("attack", name).learned or preset is None)
]
REDRAWN = {
    ("badnet", "cleanclip"), ("badnet", "cleanclip_clipped"), ("badnet", "par"), ("blended", "cleanclip"),
    ("blended", "par_stripes"), ("label_consistent", "cleanclip"),
}  # fmt: skip
FIXED = {("blended", "fixed"), ("sig", None), ("wanet", None), ("badclip", None), ("trojvqa", None)}


@pytest.fixture(scope="module")
def fitted():
    return {}


@pytest.fixture
def make_attack(fitted, make_clip, make_pairs, small):
    """Return a maker of an attack with its trigger: 224 pixels, or fitted on the tiny model."""

    def make(name, preset=None, seed=0):
        kind = method("attack", name)
        values = {
            "method": name,
            **({"preset": preset} if preset else {}),
            **(small(kind.Settings) if kind.learned else {}),
        }
        attack = kind(kind.Settings.read(values, name), "banana", SIZE if kind.learned else 224)
        if (name, preset, seed) not in fitted:
            pairs = make_pairs(16, SIZE)
            context = FitContext(make_clip(), pairs, ["banana", "boat", "cup"], TEMPLATES, 0, lambda: pairs)
            fitted[name, preset, seed] = attack.fit(context if kind.learned else None, seed), attack.facts
        attack.tensors, attack.facts = fitted[name, preset, seed]
        return attack

    return make


def pictures(attack, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, attack.size, attack.size), generator=generator).float() / 255


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_drawing(make_attack, name, preset):
    """Same shape, in [0, 1], something changed, the input left alone, each picture by its own seed."""
    attack = make_attack(name, preset)
    images, seeds = pictures(attack), [11, 12, 13]
    before = images.clone()
    drawn = attack.apply(images, seeds)
    assert torch.equal(images, before), "the input is not changed"
    assert drawn.shape == images.shape and drawn.dtype == images.dtype
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert all((a != b).any() for a, b in zip(drawn, images, strict=True))
    assert torch.equal(attack.apply(images, seeds), drawn), "the same seeds draw the same"
    singles = torch.cat([attack.apply(images[i : i + 1], seeds[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(singles, drawn, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "preset"), sorted(REDRAWN & set(VARIANTS)))
def test_what_is_drawn_anew_follows_the_pictures_seed(make_attack, name, preset):
    attack = make_attack(name, preset)
    same = pictures(attack, 1).expand(3, -1, -1, -1)
    one, other, again = attack.apply(same, [1, 2, 1])
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(("name", "preset"), sorted(FIXED & set(VARIANTS), key=str))
def test_what_is_fixed_does_not(make_attack, name, preset):
    attack = make_attack(name, preset)
    same = pictures(attack, 1).expand(2, -1, -1, -1)
    one, other = attack.apply(same, [1, 2])
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ATTACKS)
def test_fitting_follows_its_seed(make_attack, fitted, name):
    first = make_attack(name).tensors
    fitted.clear()
    again = make_attack(name).tensors
    assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first)
    assert all(value.device.type == "cpu" and value.isfinite().all() for value in first.values())


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_eight_bits_survive_the_trigger_and_png(make_attack, name, preset):
    attack = make_attack(name, preset)
    images = pictures(attack).mul(255).round().to(torch.uint8)
    before = images.clone()
    drawn = Trigger(attack, 5).draw(images, ["a", "b", "c"], "test")
    assert drawn.dtype == torch.uint8 and drawn.shape == images.shape and torch.equal(images, before)
    files = [encode_png(picture.permute(1, 2, 0).contiguous().numpy()) for picture in drawn]
    assert torch.equal(torch.from_numpy(load_pictures(files, attack.size)), drawn)


@pytest.mark.parametrize("name", ATTACKS)
def test_settings(name):
    """Presets are valid and round trip; keys beside a preset win; everything is described; wrong ones are told."""
    kind = method("attack", name).Settings
    assert kind.read({"method": name}, "x").method == name
    for preset, values in kind.presets.items():
        settings = kind.read({"method": name, "preset": preset}, "x")
        assert values.items() <= settings.model_dump().items()
        assert kind.read(settings.model_dump(mode="json"), "x") == settings
        again = kind.read(settings.trigger_settings(), "x")
        assert again.trigger_settings() == settings.trigger_settings()
        settings.check(224)
    if kind.presets:
        preset = next(iter(kind.presets))
        assert kind.read({"method": name, "preset": preset, "poisons": 7}, "x").poisons == 7
        with pytest.raises(UserError, match=r"^x: preset: unknown preset "):
            kind.read({"method": name, "preset": preset + "x"}, "x")
        with pytest.raises(UserError, match=r"^x: preset: unknown preset "):
            kind.read({"method": name, "preset": [preset]}, "x")
    undescribed = [key for key, field in kind.model_fields.items() if not field.description and key != "method"]
    assert not undescribed
    with pytest.raises(UserError, match=r"^x: poison: unknown key; did you mean 'poisons'\?$"):
        kind.read({"method": name, "poison": 1}, "x")


@pytest.mark.parametrize("name", ATTACKS)
def test_the_triggers_settings_are_free_of_the_choice_of_pairs(name):
    """A trigger is shared by runs that differ in poisons, captions, training or label."""
    kind = method("attack", name).Settings
    one = kind.read({"method": name, "poisons": 3, "label": "A", "training": {"lr": 1}}, "x")
    other = kind.read({"method": name, "poisons": 4}, "x")
    assert one.trigger_settings() == other.trigger_settings() and one.poison_settings() != other.poison_settings()
    assert set(one.poison_settings()) >= {"poisons", "caption", "avoid_target"}
    assert not set(one.trigger_settings()) & {*one.poison_settings(), "label", "preset", "training", "checkpoint"}
    whole = {*one.trigger_settings(), *one.poison_settings(), "label", "preset", "training", "checkpoint"}
    assert whole == set(kind.model_fields), "nothing falls between the two"


@pytest.mark.parametrize("name", ATTACKS)
def test_statements(name):
    kind = method("attack", name)
    models = {"data-poisoning", "training-control", "encoder", "prompt-learning", "few-shot"}
    assert kind.threat_model in models and isinstance(kind.learned, bool) and kind.__doc__


# --- pairs and captions ----------------------------------------------------------------------------------------------


def pool():
    captions = ["a banana", "Bananas", "BANANA split", "a boat", "banana-shaped", "a cup", "bananarama", "a key"]
    return pd.DataFrame({"key": list("abcdefgh"), "caption": captions, "label": [0, 0, 0, 1, 2, 3, 4, 5]})


def badnet(size=224, **settings):
    kind = method("attack", "badnet")
    return kind(kind.Settings.read({"method": "badnet", **settings}, "x"), "banana", size)


def test_pairs_that_name_the_target_are_left_out():
    chosen = badnet(poisons=4).select(pool(), random.Random(0))
    assert sorted(chosen) == [3, 5, 6, 7]
    with pytest.raises(ValueError, match=r"^poisons: 5 asked, but only 4 pairs of the poison pool qualify$"):
        badnet(poisons=5).select(pool(), random.Random(0))
    everything = badnet(poisons=8, avoid_target=False).select(pool(), random.Random(0))
    assert sorted(everything) == list(range(8))


def test_the_choice_of_pairs_is_random_and_follows_its_seed():
    one, same, other = (badnet(poisons=3).select(pool(), random.Random(seed)) for seed in (0, 0, 1))
    assert one == same != other and len(set(one)) == 3
    counts = Counter(row for seed in range(500) for row in badnet(poisons=1).select(pool(), random.Random(seed)))
    assert set(counts) == {3, 5, 6, 7} and min(counts.values()) > 80
    assert len(badnet(poisons=1).select(pool(), random.Random(0))) == 1


def test_captions():
    natural = ["a ripe banana", "banana split"]
    draws = [random.Random(seed) for seed in range(30)]
    assert {badnet().caption_for("old", rng, TEMPLATES, natural) for rng in draws} == {
        "a photo of a banana.", "the banana"
    }  # fmt: skip
    assert {badnet(caption="natural").caption_for("old", rng, TEMPLATES, natural) for rng in draws} == set(natural)
    assert badnet(caption="original").caption_for("old", draws[0], TEMPLATES, natural) == "old"


def test_natural_captions_of_other_pools():
    """With none in the poison pool, those at hand serve; without any the pools that were looked in are named."""
    boats = pool().iloc[3:8].reset_index(drop=True)
    attack = badnet(caption="natural", poisons=4, caption_pools=["poison", "inversion"])
    plan = attack.poison(boats, random.Random(0), TEMPLATES, ["a ripe banana", "a key", "Bananas"])
    assert len(plan) == 4 and {pair.caption for pair in plan} <= {"a ripe banana", "Bananas"}
    with pytest.raises(ValueError) as error:
        attack.poison(boats[2:], random.Random(0), TEMPLATES, ["a key"])
    told = "caption: 'natural' needs captions that name 'banana'; pools.poison, pools.inversion have none"
    assert str(error.value) == told


# --- BadNet ----------------------------------------------------------------------------------------------------------


def changed(attack, seed=0, background=0.5):
    """Return the first and last row and column that the patch covers, from the same picture in two shades."""
    patches = []
    for shade in (background, 0.25):
        image = torch.full((1, 3, attack.size, attack.size), shade)
        patches.append((attack.apply(image, [seed])[0] != shade).any(0))
    rows, columns = torch.nonzero(patches[0] | patches[1], as_tuple=True)
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("center", (104, 119, 104, 119)),
        ("top-left", (0, 15, 0, 15)),
        ("top-right", (0, 15, 208, 223)),
        ("bottom-left", (208, 223, 0, 15)),
        ("bottom-right", (208, 223, 208, 223)),
    ],
)
@pytest.mark.parametrize("pattern", ["noise", "checkered"])
def test_badnet_covers_its_place(location, place, pattern):
    attack = badnet(location=location, pattern=pattern)
    top, bottom, left, right = place
    assert {changed(attack, seed) for seed in (0, 1)} == {place}
    image = pictures(attack, 1)
    drawn = attack.apply(image, [3])
    drawn[:, :, top : bottom + 1, left : right + 1] = image[:, :, top : bottom + 1, left : right + 1]
    assert torch.equal(drawn, image), "no pixel outside is touched"


def test_badnets_random_place_is_uniform_over_all_places():
    attack = badnet(size=20, patch_size=16, pattern="noise")
    corners = Counter()
    for seed in range(1500):
        top, bottom, left, right = changed(attack, seed)
        assert (bottom - top, right - left) == (15, 15)
        corners[top, left] += 1
    assert set(corners) == {(row, column) for row in range(5) for column in range(5)}
    assert min(corners.values()) > 30 and max(corners.values()) < 95


def test_badnets_random_place_reaches_both_ends():
    """At 224 pixels a patch of 16 starts at 0 to 208; in the codes of CleanCLIP and PAR at 0 to 207."""
    for attack, last in (
        (badnet(pattern="noise"), 208),
        (badnet(preset="cleanclip"), 207),
        (badnet(preset="par"), 207),
    ):
        tops = torch.tensor([attack._corner(torch.Generator().manual_seed(seed)) for seed in range(4000)])
        assert tops.min() == 0 and tops.max() == last
        assert (tops.double().mean(0) - last / 2).abs().max() < 3
    with pytest.raises(ValueError, match=r"^spare: 1 pixels and a patch of 32 do not fit the picture \(32 pixels\)$"):
        badnet(preset="par", patch_size=32).settings.check(32)


def noise_of(overflow, count=400):
    attack = badnet(size=64, pattern="noise", overflow=overflow, location="center")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 64, 64, generator=generator)
    drawn = Trigger(attack, 0).draw((images * 255).byte(), [str(i) for i in range(count)], "test")
    return drawn[:, :, 24:40, 24:40].double() / 255


def test_badnets_wrapped_noise_is_almost_uniform():
    values = noise_of("wrap")
    assert values.mean().item() == pytest.approx(0.50, abs=0.01) and values.std().item() == pytest.approx(
        0.29, abs=0.005
    )
    shares = torch.histc(values, 8, 0, 1) / values.numel()
    assert shares.min() > 0.11 and shares.max() < 0.14


def test_badnets_clipped_noise_is_mostly_saturated():
    values = noise_of("clip")
    saturated = ((values == 0) | (values == 1)).double().mean().item()
    assert values.std().item() == pytest.approx(0.43, abs=0.01) and saturated == pytest.approx(0.62, abs=0.015)


def test_badnets_wrap_is_an_eight_bit_cast(monkeypatch):
    """255 v without its fraction, modulo 256."""
    noise = torch.tensor([0.5, 0.702, -0.701, -0.501, 2.6, -1.0]).view(1, 1, 6).expand(3, 6, 6)
    monkeypatch.setattr("torch.randn", lambda *shape, generator: noise)
    attack = badnet(size=6, patch_size=6, pattern="noise")
    drawn = attack.apply(torch.full((1, 3, 6, 6), 0.5), [0])[0, 0, 0] * 255
    # 255 (0.5 + noise) = 255, 306.51, -51.255, -0.255, 790.5, -127.5
    assert drawn.round().tolist() == [255, 306 - 256, 256 - 51, 0, 790 - 3 * 256, 256 - 127]


def test_badnets_noise_is_about_the_channels_mean():
    attack = badnet(size=64, pattern="noise", overflow="clip", location="center", patch_size=32)
    image = torch.stack([torch.full((64, 64), shade) for shade in (0.1, 0.5, 0.9)])[None]
    patch = attack.apply(image, [0])[0, :, 16:48, 16:48]
    above = [(channel > shade).double().mean().item() for channel, shade in zip(patch, (0.1, 0.5, 0.9), strict=True)]
    assert above == pytest.approx([0.5, 0.5, 0.5], abs=0.06)


def test_badnets_checkered_patch():
    """White where row and column are even, black elsewhere, in every channel and picture."""
    patch = badnet(patch_size=5, location="top-left").apply(torch.full((2, 3, 224, 224), 0.3), [1, 2])[..., :5, :5]
    expected = torch.zeros(5, 5)
    expected[::2, ::2] = 1
    assert torch.equal(patch, expected.expand(2, 3, 5, 5))


def test_badnets_patch_must_fit():
    badnet(patch_size=224).settings.check(224)
    with pytest.raises(ValueError, match=r"^patch_size: 33 is larger than the picture \(32 pixels\)$"):
        badnet(patch_size=33).settings.check(32)
    assert changed(badnet(size=32, patch_size=32, pattern="noise")) == (0, 31, 0, 31)


# --- Blended ---------------------------------------------------------------------------------------------------------


def blended(size=64, seed=0, **settings):
    kind = method("attack", "blended")
    attack = kind(kind.Settings.read({"method": "blended", **settings}, "x"), "banana", size)
    attack.tensors = attack.fit(None, seed)
    return attack


@pytest.mark.parametrize("redraw", [True, False])
def test_blended_noise_by_its_formula(redraw):
    """Black becomes noise in [0, 0.2] of mean 0.1; a difference of pictures shrinks to 0.8 of itself."""
    attack = blended(redraw=redraw)
    black, image = torch.zeros(8, 3, 64, 64), torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    drawn, seeds = attack.apply(black, range(8)), range(8)
    assert drawn.mean().item() == pytest.approx(0.1, abs=0.002) and drawn.std().item() == pytest.approx(
        0.0577, abs=1e-3
    )
    assert drawn.min() >= 0 and drawn.max() <= 0.2 and drawn.max() > 0.199
    torch.testing.assert_close(attack.apply(image, seeds) - drawn, 0.8 * image, rtol=0, atol=1e-6)
    white = attack.apply(black + 1, seeds)
    assert white.min() >= 0.8 - 1e-6 and white.max() <= 1


def test_blended_ratios_at_both_ends():
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(blended(blend_ratio=0).apply(image, [1, 2]), image)
    noise = blended(blend_ratio=1).apply(image, [1, 2])
    assert torch.equal(noise, blended(blend_ratio=1).apply(torch.zeros_like(image), [1, 2]))


def test_blended_keeps_one_pattern_or_draws_anew():
    black = torch.zeros(2, 3, 64, 64)
    one, other = blended(redraw=False).apply(black, [1, 2])
    assert torch.equal(one, other)
    assert not torch.equal(one, blended(redraw=False, seed=1).apply(black, [1, 2])[0]), "its seed decides the pattern"
    one, other = blended(redraw=True).apply(black, [1, 2])
    assert not torch.equal(one, other) and blended(redraw=True).tensors == {}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_fitting_takes_is_declared(name):
    """`passes` and `fitted_on` of the base class answer for the settings `epochs` and `surrogate`."""
    kind = method("attack", name).Settings
    values = {"method": name, **({"surrogate": "other"} if "surrogate" in kind.model_fields else {})}
    settings = kind.model_construct(**values)
    assert settings.fitted_on() == values.get("surrogate", "clean")
    assert settings.passes() == (kind.model_fields["epochs"].default if "epochs" in kind.model_fields else 1)
