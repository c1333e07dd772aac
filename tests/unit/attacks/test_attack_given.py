"""Triggers from files: a patch and a pattern as a picture or a tensor, and what is wrong with a file."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from antidote.attacks.badnet import BadNet
from antidote.attacks.blended import Blended
from antidote.attacks.label_consistent import LabelConsistent
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.base.errors import UserError
from antidote.base.files import sha256

PATCH = torch.randint(0, 256, (3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def written(folder, name, values=PATCH):
    path = folder / name
    if name.endswith(".safetensors"):
        save_file({"patch": values}, path)
    else:
        Image.fromarray(values.permute(1, 2, 0).numpy()).save(path)
    return str(path)


def made(kind, size=32, **values):
    name = kind.Settings.model_fields["method"].default
    attack = kind(kind.Settings.read({"method": name, "pattern": "file", **values}, "x"), "banana", size)
    attack.settings.check(size)
    attack.tensors = attack.fit(None, 0)
    return attack


@pytest.mark.parametrize("kind", [BadNet, LabelConsistent])
@pytest.mark.parametrize("name", ["patch.png", "patch.bmp", "patch.safetensors", "float.safetensors"])
def test_a_patch_is_drawn_bit_for_bit(tmp_path, kind, name):
    values = PATCH.float() / 255 if name.startswith("float") else PATCH
    path = written(tmp_path, name, values)
    attack = made(kind, file=path, patch_size=6, location="center")
    save_trigger(tmp_path / "trigger", Trigger(attack, 0), "x")
    (tmp_path / name).unlink()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    drawn = load_trigger(tmp_path / "trigger").draw(images, ["a", "b"], "test")
    assert torch.equal(drawn[:, :, 13:19, 13:19], PATCH.expand(2, -1, -1, -1))
    drawn[:, :, 13:19, 13:19] = images[:, :, 13:19, 13:19]
    assert torch.equal(drawn, images)


def test_where_a_trigger_is_from_stands_with_it(tmp_path):
    path = written(tmp_path, "patch.png")
    attack = made(BadNet, file=path, patch_size=6)
    assert attack.facts == {"file": path, "sha256": sha256(path)} and attack.settings.files() == [path]
    other = LabelConsistent.Settings.read(
        {"method": "label_consistent", "trigger": {"method": "badnet", "pattern": "file", "file": path}}, "x"
    )
    assert other.files() == [path]


@pytest.mark.parametrize(
    ("kind", "values", "pattern"),
    [
        (BadNet, {}, "checkered"),
        (Blended, {"pattern": "text", "redraw": False}, "text"),
        (LabelConsistent, {}, "checkered"),
        (LabelConsistent, {"trigger": {"method": "badnet", "file": "own.png"}, "file": None}, "checkered"),
    ],
)
def test_a_file_that_the_pattern_does_not_read_is_refused(kind, values, pattern):
    method = kind.Settings.model_fields["method"].default
    settings = kind.Settings.read({"method": method, "file": "own.png", **values}, "x")
    assert settings.files() == []
    with pytest.raises(
        ValueError, match=rf"^file: 'own.png' is not read with `pattern: {pattern}`; set `pattern: file`"
    ):
        settings.check(32)


def test_a_pattern_is_mixed_in(tmp_path):
    """As it is where it has the size of the pictures; else brought to it, a flat one staying flat."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    attack = made(Blended, file=written(tmp_path, "own.png", own), redraw=False, blend_ratio=0.25)
    torch.testing.assert_close(attack.apply(images, [0, 1]), 0.75 * images + 0.25 * own / 255)
    flat = torch.full((3, 50, 70), 51, dtype=torch.uint8)
    attack = made(Blended, file=written(tmp_path, "flat.png", flat), redraw=False)
    assert attack.tensors["pattern"].shape == (3, 32, 32)
    torch.testing.assert_close(attack.tensors["pattern"], torch.full((3, 32, 32), 0.2), rtol=0, atol=1e-5)


def test_what_is_wrong_is_told_in_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.safetensors").write_text("no tensors")
    two = str(tmp_path / "two.safetensors")
    save_file({"a": PATCH, "b": PATCH.clone()}, two)
    wrong = {
        written(tmp_path, "large.png", PATCH.repeat(1, 2, 1)): "is 12 x 6 pixels, patch_size is 6",
        written(
            tmp_path, "grey.safetensors", PATCH[:1]
        ): "should hold (3, height, width), uint8 or float, not (1, 6, 6) ",
        written(
            tmp_path, "whole.safetensors", PATCH.int()
        ): "should hold (3, height, width), uint8 or float, not (3, 6",
        written(tmp_path, "wide.safetensors", PATCH.float()): "values should be in [0, 1], not ",
        str(tmp_path / "text.png"): "cannot be read (not a picture)",
        str(tmp_path / "text.safetensors"): "cannot be read (",
        two: "should hold one tensor, holds 2",
    }
    for path, text in wrong.items():
        with pytest.raises(UserError) as error:
            made(BadNet, file=path, patch_size=6)
        assert str(error.value).startswith(f"file: {path}: {text}") and "\n" not in str(error.value)
    for kind, values in ((BadNet, {}), (Blended, {"redraw": False})):
        with pytest.raises(ValueError, match=r"^file: is missing; `pattern: file` takes the trigger from there"):
            made(kind, **values)
        with pytest.raises(ValueError, match=r"^file: 'gone.png' is not there$"):
            made(kind, file="gone.png", **values)
    with pytest.raises(UserError, match="redraw: the pattern 'file' is fixed"):
        made(Blended, file="gone.png", redraw=True)


def test_convolutions_are_exact_while_a_trigger_is_drawn(tmp_path, monkeypatch):
    """TF32 would let a trigger drawn on a GPU differ from that of training, which is drawn on the CPU."""
    attack, seen = made(BadNet, file=written(tmp_path, "patch.png"), patch_size=6), []
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    draw = attack.apply
    monkeypatch.setattr(attack, "apply", lambda *a: seen.append([flag.allow_tf32 for flag in flags]) or draw(*a))
    before = [flag.allow_tf32 for flag in flags]
    Trigger(attack, 0).draw(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["a"], "test")
    assert before[0] and seen == [[False, False]] and [flag.allow_tf32 for flag in flags] == before
