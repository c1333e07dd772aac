"""Trigger folders: what is written is what is drawn again, and each picture's seed is its own."""

import json

import pytest
import torch

from antidote.attacks import trigger as triggers
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.base.errors import UserError
from antidote.base.registry import method


def trigger(name="badnet", seed=7, size=32, **settings):
    kind = method("attack", name)
    attack = kind(kind.Settings.read({"method": name, **settings}, "x"), "banana", size)
    attack.tensors = attack.fit(None, 3)
    return Trigger(attack, seed)


def pictures(count=5):
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


KEYS = [f"k{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("badnet", {"preset": "cleanclip", "poisons": 3, "label": "A"}),
        ("blended", {"preset": "fixed"}),
        ("blended", {"preset": "cleanclip", "blend_ratio": 0.5}),
    ],
)
def test_a_loaded_trigger_draws_the_same(tmp_path, name, settings):
    first = trigger(name, **settings)
    save_trigger(tmp_path / "trigger", first, "my_attack")
    again = load_trigger(tmp_path / "trigger")
    assert torch.equal(first.draw(pictures(), KEYS, "test"), again.draw(pictures(), KEYS, "test"))
    assert (again.seed, again.attack.target, again.attack.size) == (7, "banana", 32)
    assert again.attack.settings.trigger_settings() == first.attack.settings.trigger_settings()


def test_the_description_is_readable_and_free_of_the_choice_of_pairs(tmp_path):
    save_trigger(tmp_path, trigger(preset="cleanclip", poisons=3, label="A"), "my_attack")
    description = json.loads((tmp_path / "trigger.json").read_text())
    assert description["attack"] == "my_attack" and description["method"] == "badnet"
    assert description["threat_model"] == "data-poisoning" and description["settings"]["pattern"] == "noise"
    assert not {"poisons", "caption", "label", "preset"} & set(description["settings"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trigger.json", "trigger.safetensors"]


def test_a_pictures_trigger_depends_on_key_use_and_seed_alone(monkeypatch):
    """Neither on the batch it stands in nor on its place there; nor on how many are drawn at a time."""
    images = pictures(1).expand(5, -1, -1, -1)
    whole = trigger(preset="cleanclip").draw(images, KEYS, "test")
    assert len({picture.numpy().tobytes() for picture in whole}) == 5
    assert torch.equal(trigger(preset="cleanclip").draw(images[:2], ["k4", "k1"], "test"), whole[[4, 1]])
    monkeypatch.setattr(triggers, "CHUNK", 2)
    assert torch.equal(trigger(preset="cleanclip").draw(images, KEYS, "test"), whole)
    for other in (trigger(preset="cleanclip").draw(images, KEYS, "train"),
                  trigger(preset="cleanclip", seed=8).draw(images, KEYS, "test")):  # fmt: skip
        assert not any(torch.equal(a, b) for a, b in zip(other, whole, strict=True))


def test_eight_bits_are_rounded_and_clipped():
    class Half:
        def apply(self, images, seeds):
            return torch.tensor([-0.1, 0.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.2]).view(1, 1, 1, 6)

    drawn = Trigger(Half(), 0).draw(torch.zeros(1, 1, 1, 6, dtype=torch.uint8), ["a"], "test")
    assert drawn.flatten().tolist() == [0, 0, 0, 1, 255, 255]


def test_every_byte_comes_back_where_the_trigger_is_not():
    class Nothing:
        def apply(self, images, seeds):
            return images

    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(Trigger(Nothing(), 0).draw(every, ["a"], "test"), every)


def test_no_pictures():
    assert trigger().draw(pictures(0), [], "test").shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", ["trigger.json", "trigger.safetensors"])
def test_missing_and_damaged_files_are_named(tmp_path, name):
    save_trigger(tmp_path, trigger("blended", preset="fixed"), "x")
    data = (tmp_path / name).read_bytes()
    for damaged in (data[: len(data) // 2], b"", None):
        if damaged is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            load_trigger(tmp_path)


@pytest.mark.parametrize("change", [lambda d: d.pop("method"), lambda d: d.pop("seed"), lambda d: d.clear()])
def test_a_description_of_something_else(tmp_path, change):
    save_trigger(tmp_path, trigger(), "x")
    description = json.loads((tmp_path / "trigger.json").read_text())
    change(description)
    (tmp_path / "trigger.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"trigger\.json: does not describe a trigger"):
        load_trigger(tmp_path)


def test_an_unknown_method_or_setting_is_told(tmp_path):
    save_trigger(tmp_path, trigger(), "x")
    text = (tmp_path / "trigger.json").read_text()
    (tmp_path / "trigger.json").write_text(text.replace('"badnet"', '"badnett"'))
    with pytest.raises(UserError, match=r"unknown attack method 'badnett'; did you mean 'badnet'\?"):
        load_trigger(tmp_path)
    (tmp_path / "trigger.json").write_text(text.replace("patch_size", "patchsize"))
    with pytest.raises(UserError, match=r"patchsize: unknown key; did you mean 'patch_size'\?"):
        load_trigger(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({}, "'pattern' is missing"),
        ({"pattern": torch.zeros(3, 8, 8)}, "does not fit"),
        ({"pattern": torch.zeros(2, 3, 32, 32)}, "does not fit|draws pictures of shape"),
        ({"pattern": torch.full((3, 32, 32), torch.nan)}, "'pattern' has values that are not finite"),
    ],
)
def test_tensors_that_do_not_fit_the_method_are_told_in_a_line(tmp_path, tensors, fault):
    made = trigger("blended", preset="fixed")
    made.attack.tensors = tensors
    save_trigger(tmp_path, made, "x")
    with pytest.raises(
        UserError, match=rf"trigger\.safetensors: ({fault}).*; should hold a trigger of blended for .* 32 x 32"
    ):
        load_trigger(tmp_path)


def test_an_error_without_words_is_told_by_its_kind(tmp_path, monkeypatch):
    made = trigger()
    save_trigger(tmp_path, made, "x")

    def failing(self, images, seeds):
        raise ValueError

    monkeypatch.setattr(type(made.attack), "apply", failing)
    with pytest.raises(UserError, match=r"does not fit \(ValueError\)"):
        load_trigger(tmp_path)


@pytest.mark.parametrize("pictures", [torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(2, 3, 32, 32)])
def test_replacement_pictures_have_the_size_of_the_study(tmp_path, pictures):
    made = trigger()
    made.attack.tensors = {**made.attack.tensors, "pictures": pictures}
    save_trigger(tmp_path, made, "x")
    with pytest.raises(UserError, match=r"'pictures' is torch\..*, not uint8 \(N, 3, size, size\)"):
        load_trigger(tmp_path)


@pytest.mark.parametrize("size", [0, -3, "32", None, 2.5])
def test_a_size_that_is_no_number_of_pixels(tmp_path, size):
    save_trigger(tmp_path, trigger(), "x")
    description = json.loads((tmp_path / "trigger.json").read_text())
    (tmp_path / "trigger.json").write_text(json.dumps({**description, "size": size}))
    with pytest.raises(UserError, match=r"trigger\.json: should hold a target as text and a size in pixels"):
        load_trigger(tmp_path)
