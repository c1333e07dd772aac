"""Models and datasets as a user names them on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from antidote.base.errors import UserError, nearest
from antidote.base.lazy import torch
from antidote.clip import zoo
from antidote.clip.configs import ModelSettings
from antidote.clip.files import CONFIG
from antidote.clip.known import model_config, model_names
from antidote.command import foreign
from antidote.data.pairs import Pairs
from antidote.data.sources.base import RawPair, Skipped, SourceSettings, unread
from antidote.data.sources.folder import EXTENSIONS, Folder
from antidote.data.sources.table import Table
from antidote.data.sources.webdataset import WebDataset
from antidote.data.store import images, shards
from antidote.data.store.intake import Intake

if TYPE_CHECKING:
    from antidote.clip.model import Clip

SPLIT = "given"
TABLES = (".csv", ".tsv", ".parquet")
PATHS, BYTES = ("path", "file", "filepath", "image_path", "filename", "file_name"), ("image", "jpg", "png", "bytes")
CAPTIONS = ("caption", "text", "title", "txt")
HUB = "hf-hub:"
MODELS = "a model folder, a checkpoint file, hf-hub:OWNER/NAME, or zoo:NAME"
CHUNK = 256  # pictures that are decoded at a time
KINDS = (
    "a table (.csv, .tsv, .parquet), tar shards, a folder of class folders or of pictures, or a split that this "
    "project wrote"
)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table; None: the first name that is usual (`PATHS`, `BYTES`, `CAPTIONS`)."""

    path: str | None = None
    image: str | None = None
    caption: str | None = None


USUAL = Columns()


@dataclass(frozen=True)
class Item:
    """One pair of a dataset: key as a study stores it, picture file, first caption, label (-1: none)."""

    key: str
    image: bytes
    caption: str
    label: int


class Loose(SourceSettings):
    """Pictures in one folder; the caption is the text file of the same name, else the name of the picture."""

    source: str = "loose"
    root: str

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        """Yield the pictures by name."""
        for path in sorted(Path(self.root).iterdir()):
            if path.suffix.lower() not in EXTENSIONS:
                continue
            text = path.with_suffix(".txt")
            try:
                caption = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else path.stem
                yield self.labelled(path.name, path.read_bytes(), [caption], None, None)
            except OSError as error:
                yield unread(path.name, path, error)


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A model by its path or name.

    Attributes:
        path: an open_clip model folder, a checkpoint file, `hf-hub:OWNER/NAME` of an open_clip model, or `zoo:NAME`.
        arch: the architecture of a checkpoint file, such as RN50.
        quick_gelu: whether a checkpoint file needs QuickGELU activations, as OpenAI's weights do.
    """

    path: str | Path
    arch: str | None = None
    quick_gelu: bool = False

    def __str__(self) -> str:
        return str(self.path)


Model: TypeAlias = "str | Path | Checkpoint | Clip"  # a model as its user has it


def checkpoint(args: argparse.Namespace) -> Checkpoint:
    """Return the model that the arguments of a command name."""
    return Checkpoint(args.model, args.arch, args.quick_gelu)


def load(model: Model) -> Clip:
    """Return the model that a user names; a model that is loaded already is returned as it is.

    Raises:
        UserError: the model does not exist, cannot be fetched, or is no model.
    """
    from antidote.clip.folder import create_model

    if isinstance(model, str | Path):
        model = Checkpoint(model)
    if not isinstance(model, Checkpoint):
        return model
    check_model(model)
    name, path = str(model.path), Path(model.path)
    if zoo.is_name(name):
        return foreign.load_folder(zoo.find(name))
    if name.startswith(HUB):
        return foreign.load_folder(_fetched(name.removeprefix(HUB)))
    if path.is_dir():
        return foreign.load_folder(path)
    settings = ModelSettings(name=model.arch, pretrained=name, quick_gelu=model.quick_gelu)
    return foreign.sound(lambda: create_model(settings, seed=0), name)


def check_model(model: Checkpoint) -> None:
    """Check a model without loading it; names of the zoo and of a hub are not looked up.

    Raises:
        UserError: there is no such model, or its architecture is missing or unknown.
    """
    name, path = str(model.path), Path(model.path)
    if zoo.is_name(name) or name.startswith(HUB):
        return
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise UserError(f"{name}: is no model folder; should hold {CONFIG} and the weights beside it")
    elif not path.is_file():
        raise UserError(f"{name}: no such model; should be {MODELS}")
    elif model.arch is None:
        raise UserError(f"--arch: is missing; {name} is a checkpoint file, name its architecture, such as RN50")
    elif model_config(model.arch) is None:
        raise UserError(f"--arch: unknown architecture {model.arch!r}{nearest(model.arch, model_names())}")


def shown(given: object, what: str) -> str:
    """Return how results and messages name a model or a dataset, a path or `what` in memory."""
    return str(given) if isinstance(given, str | Path | Checkpoint) else f"{what} in memory"


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, "open_clip_model.safetensors"]))
    except Exception as error:  # the library raises many kinds of errors
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{HUB}{name}: cannot be fetched ({reason}); give the path of its folder") from None


# --- datasets --------------------------------------------------------------------------------------------------------


def columns(args: argparse.Namespace) -> Columns:
    """Return the columns that the arguments of a command name."""
    return Columns(args.path, args.image, args.caption)


def stream(dataset: str | Path, named: Columns) -> Iterator[Item]:
    """Yield the pairs of a dataset in order, one picture file in memory at a time.

    Raises:
        UserError: the dataset does not exist, is of no known kind, or holds no usable pair.
    """
    if (Path(dataset) / "manifest.json").is_file():
        yield from _written(Path(dataset))
        return
    dataset = str(dataset)
    settings = source_of(dataset, named)
    intake = Intake(None)
    for item in settings.iterate(SPLIT):
        pair = intake.take(item)
        if pair is not None:
            yield Item(pair.key, pair.image, pair.captions[0], -1 if pair.label is None else pair.label)
    try:
        intake.judge(dataset, SPLIT, settings)
    except UserError as error:
        raise UserError(str(error).replace(f"{dataset}/{SPLIT}: ", f"{dataset}: ", 1)) from None


def _written(folder: Path) -> Iterator[Item]:
    index = shards.open_index(folder, ["key", "shard", "offset", "size", "caption", "label"])
    for start in range(0, len(index), CHUNK):
        rows = index.iloc[start : start + CHUNK]
        files = shards.read_images(folder, rows)
        for row, file in zip(rows.itertuples(), files, strict=True):
            yield Item(row.key, file, row.caption, int(row.label))


def source_of(dataset: str, named: Columns) -> SourceSettings:
    """Return the source of a dataset by its kind.

    Raises:
        UserError: the dataset does not exist or is of no known kind.
    """
    path, more = Path(dataset), {"accepted_skip_share": 1.0}
    if path.is_dir():
        if any(path.glob("*.tar")):
            return WebDataset(splits={SPLIT: str(path / "*.tar")}, **more)
        if any(entry.suffix.lower() in EXTENSIONS for entry in path.iterdir()):
            return Loose(root=dataset, **more)
        if any(entry.is_dir() for entry in path.iterdir()):
            return Folder(root=str(path.parent), splits={SPLIT: path.name}, **more)
        raise UserError(f"{dataset}: holds no pictures; should be {KINDS}")
    if ".tar" in path.name:
        return WebDataset(splits={SPLIT: dataset}, **more)
    if not path.is_file():
        raise UserError(f"{dataset}: no such dataset; should be {KINDS}")
    if path.suffix.lower() not in TABLES:
        raise UserError(f"{dataset}: is no dataset; should be {KINDS}")
    return Table(splits={SPLIT: dataset}, **_found(path, named), **more)


def _found(path: Path, named: Columns) -> dict[str, str]:
    """Return the columns of a table with paths or picture files, and with captions.

    Raises:
        UserError: a column is neither named nor known.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            names = pq.read_schema(path).names
        else:
            names = list(pd.read_csv(path, nrows=0, sep="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from None
    if any(not name.isprintable() for name in map(str, names)):
        raise UserError(f"{path}: cannot be read as a table (the names of its columns are no text)")
    find = lambda known: next((name for name in known if name in names), None)
    place, image, caption = named.path or find(PATHS), named.image or find(BYTES), named.caption or find(CAPTIONS)
    if named.image or not place:
        place = None
    if place is None and image is None:
        raise UserError(f"--path: is missing; name the column of paths in {path}, which has {', '.join(names)}")
    if caption is None:
        raise UserError(f"--caption: is missing; name the column of captions in {path}, which has {', '.join(names)}")
    return {**({"path": place} if place else {"image": image}), "caption": caption}


def chunks(items: Iterator[Item], size: int) -> Iterator[Pairs]:
    """Yield the pairs of a stream as pictures of `size` pixels, CHUNK at a time."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == CHUNK:
            yield _pairs(waiting, size)
            waiting = []
    if waiting:
        yield _pairs(waiting, size)


def _pairs(items: list[Item], size: int) -> Pairs:
    keys = [item.key for item in items]
    pictures = images.load_pictures([item.image for item in items], size, torch.get_num_threads(), keys)
    labels = torch.tensor([item.label for item in items])
    return Pairs(keys, torch.from_numpy(pictures), [item.caption for item in items], labels)


def load_pairs(dataset: str | Path | Pairs, named: Columns, size: int) -> Pairs:
    """Return all pairs of a dataset in memory, uint8 pictures of `size` pixels; pairs in memory as they are.

    Raises:
        UserError: as `stream`.
    """
    if isinstance(dataset, Pairs):
        return dataset
    parts = list(chunks(stream(dataset, named), size))
    if not parts:
        raise UserError(f"{dataset}: holds no usable pair")
    return Pairs(
        keys=[key for part in parts for key in part.keys],
        images=torch.cat([part.images for part in parts]),
        captions=[text for part in parts for text in part.captions],
        labels=torch.cat([part.labels for part in parts]),
    )
