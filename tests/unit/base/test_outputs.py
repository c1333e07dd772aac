"""What the stages write: readable by whom the umask allows, and whole on whatever disk its folder is."""

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from antidote.attacks.badnet import BadNet
from antidote.attacks.trigger import Trigger, load_trigger, save_trigger
from antidote.base.errors import UserError
from antidote.clip.classifier_head import ClassifierHead
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import WEIGHTS, create_model, load_model, save_model
from antidote.data import fitted, overlay, pools
from antidote.data.sources.scenes import Scenes
from antidote.data.store import ingest, shards
from antidote.data.store.images import encode_png


def write_split(folder, pairs=6):
    settings = Scenes.read({"source": "scenes", "splits": {"test": {"pairs": pairs, "seed": 3}}}, "tiny")
    return ingest.write(settings, "tiny", "test", folder)


def test_all_outputs_get_the_mode_that_the_umask_gives(make_clip, tmp_path):
    before = os.umask(0o027)
    try:
        clip = make_clip("rn")
        save_model(tmp_path / "model", clip, {})
        head = ClassifierHead(clip.network, clip.config, {"weights": torch.zeros(3, 4)}, {})
        save_model(tmp_path / "adapted", head, {})
        save_trigger(tmp_path / "trigger", Trigger(BadNet(BadNet.Settings(), "banana", 32, {}), 0), "badnet")
        write_split(tmp_path / "tiny" / "test")
        fitted.write(tmp_path / "tiny" / "test", 16, None)
        pools.write(tmp_path / "pools.parquet", pd.DataFrame(columns=pools.COLUMNS))
        columns = {name: ["x"] for name in overlay.COLUMNS if name not in ("shard", "offset", "size")}
        files = [encode_png(np.zeros((8, 8, 3), np.uint8))]
        overlay.write_overlay(tmp_path / "poison", pd.DataFrame(columns), files)
    finally:
        os.umask(before)
    files = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {"model/open_clip_model.safetensors", "adapted/adapter.safetensors", "trigger/trigger.safetensors"} <= set(
        files
    )
    assert {name: stat.S_IMODE(path.stat().st_mode) for name, path in files.items()} == dict.fromkeys(files, 0o640)


def test_weights_that_may_not_be_read_are_told_so(tmp_path, monkeypatch):
    """The library that reads them calls each a missing file."""
    save_model(tmp_path / "model", create_model(ModelSettings(name="tiny-rn"), 0), {})
    save_trigger(tmp_path / "trigger", Trigger(BadNet(BadNet.Settings(), "banana", 32, {}), 0), "badnet")
    real = Path.open

    def refuse(path, *more, **options):
        if path.suffix == ".safetensors":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *more, **options)

    monkeypatch.setattr(Path, "open", refuse)
    settings = ModelSettings(name="tiny-rn", pretrained=str(tmp_path / "model"))
    file = settings.model_copy(update={"pretrained": str(tmp_path / "model" / WEIGHTS)})
    for read in (
        lambda: load_model(tmp_path / "model"),
        lambda: load_trigger(tmp_path / "trigger"),
        lambda: create_model(settings, 0),
        lambda: create_model(file, 0),
    ):
        with pytest.raises(UserError, match=r"\.safetensors: cannot be read \(Permission denied\)$"):
            read()


@pytest.fixture
def disk(tmp_path):
    """Return a folder on another disk than tmp_path."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second disk to write to")
    folder = Path(tempfile.mkdtemp(dir=shared))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("linked", ["data", "data/tiny", "data/tiny/test"])
def test_a_split_on_another_disk_is_made_anew(tmp_path, disk, linked):
    split = tmp_path / "data" / "tiny" / "test"
    link = tmp_path / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(disk / "there")
    (disk / "there").mkdir()
    for pairs in (6, 4):
        write_split(split, pairs)
        assert len(shards.open_index(split)) == pairs and fitted.write(split, 16, None) == pairs
    assert link.is_symlink() and [path.name for path in disk.iterdir()] == ["there"]


def test_a_split_that_cannot_be_made_anew_stays(tmp_path, monkeypatch):
    folder = tmp_path / "tiny" / "test"
    write_split(folder)
    fitted.write(folder, 16, None)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "write_json", full)  # the last file
        with pytest.raises(OSError, match="No space"):
            write_split(folder, 4)
    monkeypatch.setattr(fitted.images, "load_pictures", full)
    with pytest.raises(OSError, match="No space"):
        fitted.write(folder, 16, None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
