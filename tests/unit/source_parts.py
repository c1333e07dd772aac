"""What the tests of sources share: small picture files and shards, and what a source yields of them."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from antidote.base.errors import UserError
from antidote.base.registry import method
from antidote.data.store import ingest, shards


def picture(seed=0, size=12, kind="PNG", **options):
    array = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return saved(Image.fromarray(array), kind, **options)


def saved(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def source(kind, **values):
    return method("source", kind).read({"source": kind, **values}, "datasets.mine")


def pairs(settings, split="train"):
    return list(settings.iterate(split))


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return str(path)


def shard(tmp_path, members, **settings):
    return pairs(source("webdataset", splits={"train": tar(tmp_path / "0.tar", members)}, **settings))


def stored(tmp_path, settings):
    manifest = ingest.write(settings, "mine", "train", tmp_path / "out")
    return manifest, shards.open_index(tmp_path / "out")


def told(tmp_path, members, **settings):
    settings = source("webdataset", splits={"train": tar(tmp_path / "0.tar", members)}, **settings)
    with pytest.raises(UserError) as error:
        ingest.write(settings, "mine", "train", tmp_path / "out")
    return str(error.value)
