"""`antidote inspect`: which pictures are scored, how results name them, and scores that are no numbers."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.command.inspect import inspect
from antidote.detectors.base import Scores


@pytest.fixture
def pictures(tmp_path):
    """Pictures at the top of a folder and in a folder in it, two of one name; and a file that is no picture."""
    noise = np.random.default_rng(0)
    for name in ("same.jpg", "same.png", "sub/a.png", "sub/b.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    (tmp_path / "pictures" / "sub" / "c.png").write_text("no picture")
    return tmp_path / "pictures"


def test_all_pictures_are_scored_and_named_by_their_files(tmp_path, pictures, make_clip):
    found = inspect(make_clip("vit"), pictures, "backdoor_ids", output=tmp_path / "out")
    files = ["same.jpg", "same.png", "sub/a.png", "sub/b.png"]
    assert found.files == files
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(table) == ["picture", "score", "file"] and sorted(table["file"]) == files
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"<b>{file}</b>" in page for file in files)
    told = json.loads((tmp_path / "out" / "inspect.json").read_text())["skipped"]
    assert told == {"count": 1, "reasons": {"not a picture": 1}, "keys": ["sub/c.png"], "damaged": []}
    assert "1 x not a picture; sub/c.png" in page


def test_one_picture_is_scored(pictures, make_clip):
    assert inspect(make_clip("vit"), pictures / "same.jpg", "backdoor_ids").files == ["same.jpg"]


@pytest.mark.parametrize("tower", ["visual.conv1.weight", "token_embedding.weight"])
def test_features_that_are_no_numbers_are_told(tower, pictures, make_clip):
    clip = make_clip("vit")
    clip.network.get_parameter(tower).data.fill_(float("inf"))
    with pytest.raises(UserError, match=r"^a model in memory: the model's features are not finite"):
        inspect(clip, pictures, "backdoor_ids")


def test_scores_that_are_no_numbers_are_told(tmp_path, pictures, make_clip, monkeypatch):
    kind = method("detector", "backdoor_ids")
    monkeypatch.setattr(kind, "score", lambda *_: Scores(list("0123"), np.array([np.nan, 1, 2, 3])))
    with pytest.raises(UserError, match=r"^backdoor_ids: 1 of 4 scores of a model in memory are not finite"):
        inspect(make_clip("vit"), pictures, "backdoor_ids", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_of_other_input_are_not_replaced(tmp_path, pictures, make_clip, monkeypatch):
    clip, out = make_clip("vit"), tmp_path / "out"
    inspect(clip, pictures, "backdoor_ids", output=out)
    inspect(clip, pictures, "backdoor_ids", output=out, seed=1)  # the same pictures again
    with pytest.raises(UserError, match=r"--output: .*out: holds results of pictures .*pictures, which would be lost"):
        inspect(clip, pictures / "sub", "backdoor_ids", output=out)
    monkeypatch.chdir(tmp_path)
    inspect(clip, pictures.relative_to(tmp_path), "backdoor_ids", output=tmp_path / "named")
    (tmp_path / "there" / pictures.relative_to(tmp_path)).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(UserError, match=rf"named: holds results of the files {pictures}, which would be lost"):
        inspect(clip, pictures.relative_to(tmp_path), "backdoor_ids", output=tmp_path / "named")
    (out / "inspect.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds results of pictures unknown, which would be lost"):
        inspect(clip, pictures, "backdoor_ids", output=out)
    (tmp_path / "scanned").mkdir()
    (tmp_path / "scanned/scan.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"scanned: holds results of `antidote scan` \(scan\.json\), which would be lost"
    ):
        inspect(clip, pictures, "backdoor_ids", output=tmp_path / "scanned")


def test_a_name_that_is_no_utf_8_is_shown(tmp_path, pictures, make_clip):
    name = os.fsdecode(b"caf\xe9.png")
    (pictures / "same.png").rename(pictures / name)
    inspect(make_clip("vit"), pictures, "backdoor_ids", output=tmp_path / "out")
    assert "caf\\xe9.png" in list(pd.read_csv(tmp_path / "out" / "scores.csv")["file"])
    assert "caf\\xe9.png" in (tmp_path / "out" / "report.html").read_text()
