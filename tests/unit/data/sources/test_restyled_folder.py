"""Class folders in another style: the same pairs, other pixels, faults in a line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_parts import pairs, source

from antidote.base.errors import UserError
from antidote.data.sources.base import Skipped
from antidote.data.store import ingest
from antidote.data.store.images import fit
from antidote.data.styles import FACTOR, STYLES, styled

STYLED = {"splits": {"s": {"folder": "val", "style": "negative"}}}


@pytest.fixture
def folders(tmp_path):
    """Two classes; pictures of 40 x 24 pixels."""
    for number, name in enumerate(("n01", "n02")):
        (tmp_path / "val" / name).mkdir(parents=True)
        values = np.random.default_rng(number).integers(0, 256, (24, 40, 3), np.uint8)
        Image.fromarray(values).save(tmp_path / "val" / name / "a.png")
    return {"root": str(tmp_path)}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_the_pairs_of_a_folder_in_a_style(folders, style, strength):
    """The centre of each picture, as an evaluation crops it, at its former shorter side."""
    splits = {"s": {"folder": "val", "style": style, "strength": strength}}
    plain = pairs(source("folder", **folders, splits={"s": "val"}), "s")
    found = pairs(source("restyled_folder", **folders, splits=splits), "s")
    assert [(one.key, one.label, one.captions) for one in found] == [(o.key, o.label, o.captions) for o in plain]
    for one, path in zip(found, sorted(Path(folders["root"]).rglob("*.png")), strict=True):
        assert one.image.shape == (24, 24, 3) and one.image.dtype == np.uint8
        wanted = styled(fit(Image.open(path), 24 * FACTOR)[None], style, strength)[0]
        assert np.array_equal(one.image, wanted)
        assert np.abs(one.image.astype(int) - fit(Image.open(path), 24)).mean() > 3


@pytest.mark.parametrize(("size", "side"), [(16, 16), (100, 24)])
def test_image_size_reduces_and_never_enlarges(folders, size, side):
    [one, _] = pairs(source("restyled_folder", **folders, **STYLED, image_size=size), "s")
    assert one.image.shape == (side, side, 3)


def test_a_negative_is_the_inverted_picture(folders):
    Image.new("RGB", (12, 20), (10, 200, 255)).save(Path(folders["root"], "val/n01/a.png"))
    [one, _] = pairs(source("restyled_folder", **folders, **STYLED), "s")
    assert one.image.shape == (12, 12, 3) and (one.image == (245, 55, 0)).all()


def test_a_picture_that_cannot_be_read_is_counted_as_in_a_folder(folders, tmp_path):
    Path(folders["root"], "val/n01/a.png").write_bytes(b"no picture")
    taken = source("restyled_folder", **folders, **STYLED, accepted_skip_share=1)
    assert not any(isinstance(one, Skipped) for one in taken.iterate("s"))
    ingest.write(taken, "mine", "s", tmp_path / "stored")
    assert "not a picture" in (tmp_path / "stored/manifest.json").read_text()


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"s": {"folder": "val", "style": "comic"}}, r"splits\.s\.style: "),
        ({"s": {"folder": "val", "style": "night", "strength": 0}}, r"splits\.s\.strength: "),
        ({"s": "val"}, r"splits\.s: "),
        ({"s": {"style": "night"}}, r"splits\.s\.folder: is missing"),
    ],
)
def test_settings_that_are_wrong_are_named(folders, splits, told):
    with pytest.raises(UserError, match=told):
        source("restyled_folder", **folders, splits=splits)


def test_a_folder_that_is_missing_is_named(folders):
    taken = source("restyled_folder", **folders, splits={"s": {"folder": "gone", "style": "night"}})
    assert taken.absent("s") == [f"splits.s: {folders['root']}/gone: no such folder"]
    with pytest.raises(UserError, match="gone: no such folder"):
        list(taken.iterate("s"))
