"""Folders as other tools leave them: leftovers, links, files of other endings."""

from pathlib import Path

import pytest
from source_parts import pairs, picture, source

from antidote.base.errors import UserError
from antidote.command.sources import Loose
from antidote.data.sources.base import Skipped, Unread


@pytest.fixture
def classes(tmp_path):
    for name in ("church", "tench"):
        (tmp_path / "set" / "val" / name).mkdir(parents=True)
        for n in range(2):
            (tmp_path / "set" / "val" / name / f"{n}.png").write_bytes(picture(n))
    return source("folder", root=str(tmp_path / "set"), splits={"train": "val"}), tmp_path / "set" / "val"


OWN = ["church/0.png", "church/1.png", "tench/0.png", "tench/1.png"]


@pytest.mark.parametrize(
    "left", ["tench/.ipynb_checkpoints/0.png", "tench/._0.png", "__MACOSX/tench/0.png", "tench/a/.b/c/0.png",
             "tench/a/__MACOSX/0.png", ".git/0.png", "@eaDir/tench/0.png"],
)  # fmt: skip
def test_leftovers_are_left_out(classes, left):
    settings, root = classes
    (root / left).parent.mkdir(parents=True, exist_ok=True)
    (root / left).write_bytes(picture())
    assert [item.key for item in pairs(settings)] == OWN


def test_links_are_followed_as_torchvision_does(classes, tmp_path):
    from torchvision.datasets import ImageFolder

    settings, root = classes
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "more" / "deep" / "2.png").write_bytes(picture(2))
    (root / "tench" / "more").symlink_to(tmp_path / "more")
    (root / "truck").symlink_to(tmp_path / "more")
    (root / "church" / "9.png").symlink_to(root / "tench" / "0.png")
    wanted = [str(Path(path).relative_to(root)) for path, _ in ImageFolder(root).samples]
    assert sorted(item.key for item in pairs(settings)) == sorted(wanted)
    assert len(wanted) == len(OWN) + 3


def test_links_that_go_round_end(classes, tmp_path):
    settings, root = classes
    (tmp_path / "other").mkdir()
    (root / "tench" / "all").symlink_to(root)
    (root / "church" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(root / "church")
    got = {item.key: item for item in pairs(settings)}
    loops = {key: item.detail for key, item in got.items() if isinstance(item, Skipped)}
    assert set(OWN) <= set(got)
    assert loops["church/other/back"] == str(root / "church")
    assert all(got[key].reason == "link to a folder that holds it" for key in loops) and len(got) < 20


@pytest.mark.parametrize("kind", ["folder", "loose"])
def test_links_to_devices_are_not_read(classes, kind):
    settings, root = classes
    (root / "church" / "0.png").unlink()
    (root / "church" / "0.png").symlink_to("/dev/null")
    if kind == "loose":
        settings = Loose(root=str(root))
    got = {item.key: item for item in pairs(settings)}
    assert set(got) == set(OWN) and sum(isinstance(item, Unread) for item in got.values()) == 1
    assert got["church/0.png"].detail.endswith("church/0.png: is a pipe or a device, not a file")


def test_files_of_other_endings_are_counted(classes, caplog):
    settings, root = classes
    (root / "tench" / "a.HEIC").write_bytes(b"x")
    (root / "tench" / "b.JFIF").write_bytes(picture(kind="JPEG"))
    assert [item.key for item in pairs(settings)] == [*OWN, "tench/b.JFIF"]
    assert "are left out: 1 x .heic" in caplog.text


def test_folders_without_class_folders_say_what_they_are(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    for split, text in (
        ("a.png", "is no folder"),
        ("gone", "no such folder"),
        ("", "holds no class folders, but 1 pic"),
    ):
        with pytest.raises(UserError, match=text):
            pairs(source("folder", root=str(tmp_path), splits={"train": split}))
