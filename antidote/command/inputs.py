"""Models and datasets as a user names them on the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from antidote.base import command_line
from antidote.base.errors import UserError, nearest
from antidote.base.files import read_json
from antidote.base.lazy import torch
from antidote.clip import zoo
from antidote.clip.configs import ModelSettings
from antidote.clip.files import CONFIG
from antidote.clip.known import model_config, model_names
from antidote.clip.weights import OF_TRANSFORMERS, of_transformers
from antidote.command import foreign, report
from antidote.command.columns import TABLES, USUAL, Columns, of_table
from antidote.command.sources import (
    FILE,
    LISTED,
    Loose,
    LoosePictures,
    Omitted,
    ShardPictures,
    Shards,
    TablePictures,
    literal,
    picture_files,
)
from antidote.data.pairs import Pairs
from antidote.data.sources.base import Damaged, SourceSettings
from antidote.data.sources.folder import EXTENSIONS, Folder
from antidote.data.sources.table import Table
from antidote.data.store import images, shards
from antidote.data.store.intake import Intake

if TYPE_CHECKING:
    from antidote.clip.model import Clip

SPLIT = "given"
HUB = "hf-hub:"
MODELS = "a model folder, a checkpoint file, hf-hub:OWNER/NAME, or zoo:NAME"
CHUNK = 256  # pictures that are decoded at a time
TAR = re.compile(r"\.tar(\.\w+)?$", re.IGNORECASE)
KINDS = (
    "a table (.csv, .tsv, .parquet), tar shards, a folder of class folders or of pictures, or a split that this "
    "project wrote"
)


@dataclass(frozen=True)
class Item:
    """One pair of a dataset.

    Attributes:
        key: key as a study stores it.
        image: the picture file.
        caption: the first caption; empty where captions have no effect.
        label: -1: none.
        file: the picture's path in the given folder, tar or table; the name in the source where there is no path.
    """

    key: str
    image: bytes
    caption: str
    label: int
    file: str


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
    """Return the model that a user names, in evaluation mode; a model that is loaded already is returned as it is.

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
    try:
        clip = foreign.sound(lambda: create_model(settings, seed=0), name)
    except UserError as error:
        raise UserError(_by_options(str(error), model)) from None
    clip.network.eval()  # as in `load_model`
    return clip


def _by_options(fault: str, model: Checkpoint) -> str:
    """Return a fault of a checkpoint file with the options of a command in place of the keys of a study."""
    if fault.startswith("model.quick_gelu: "):
        advice = "leave it out" if model.quick_gelu else "is needed"
        return f"--quick-gelu: {advice} for the weights {model}"
    fault = fault.removeprefix("model.pretrained: ").replace("model.name: ", "--arch: ")
    advice = f"; another --arch than {model.arch} may be that of the file"
    return fault + (advice if "cannot be loaded into model" in fault else "")


def check_model(model: Checkpoint) -> None:
    """Check a model without loading it; names of the zoo and of a hub are not looked up.

    Raises:
        UserError: there is no such model, or its architecture is missing, unknown, or given for a model that has one;
            its name is not UTF-8, which safetensors needs.
    """
    name, path = str(model.path), Path(model.path)
    report.check_name("model", name)
    if (model.arch or model.quick_gelu) and (zoo.is_name(name) or name.startswith(HUB) or path.is_dir()):
        option = "--arch" if model.arch else "--quick-gelu"
        raise UserError(f"{option}: is for a checkpoint file; {name} is a model with a configuration of its own")
    if zoo.is_name(name) or name.startswith(HUB):
        return
    if path.is_dir():
        if of_transformers(path):
            raise UserError(f"{name}: {OF_TRANSFORMERS}")
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


def located(given: object) -> str:
    """Return the whole path of a model or dataset that lies in a file or folder; "" for another one.

    Equal names are other files in another working folder.
    """
    if not isinstance(given, str | Path | Checkpoint):
        return ""
    path = Path(str(given))
    return str(path.resolve()) if path.exists() else ""


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


def stream(
    dataset: str | Path, named: Columns, omitted: Omitted | None = None, captions: bool = True
) -> Iterator[Item]:
    """Yield the pairs of a dataset in order, one picture file in memory at a time.

    Args:
        omitted: takes what is left out; damaged files are left out from the damage on.
        captions: whether an item needs a caption; False: every picture is an item.

    Raises:
        UserError: the dataset does not exist, is of no known kind, or holds no usable pair.
    """
    if is_written(dataset):
        yield from _written(Path(dataset))
        return
    dataset = str(dataset)
    settings = source_of(dataset, named, captions)
    if omitted is not None and isinstance(settings, Shards) and settings.prefix:  # results hold these keys
        command_line.log.info("%s: shards use the same keys; a key gets the name of its shard, as by `prefix`", dataset)
    omitted = Omitted() if omitted is None else omitted
    intake = Intake(None)
    for item in settings.iterate(SPLIT):
        pair = intake.take(item)
        if pair is not None:
            label = -1 if pair.label is None else pair.label
            yield Item(pair.key, pair.image, pair.captions[0], label, pair.origin.get(FILE, item.key))
        elif not isinstance(item, Damaged) and len(omitted.keys) < LISTED:
            omitted.keys.append(item.key.encode(errors="backslashreplace").decode())
    omitted.reasons.update(intake.skipped)
    omitted.damaged += intake.damaged
    _judge(intake, dataset, settings, named)


def _judge(intake: Intake, dataset: str, settings: SourceSettings, named: Columns) -> None:
    """Log what is left out; a damaged file is no error, as its number of pairs is not known here.

    Raises:
        UserError: there is no usable pair.
    """
    damaged, intake.damaged = intake.damaged, []
    try:
        intake.judge(dataset, SPLIT, settings)
    except UserError as error:
        text = str(error).replace(f"{dataset}/{SPLIT}: ", f"{dataset}: ", 1)
        text = text.replace("named by `path`", f"named by `--path {named.image or 'COLUMN'}`")
        raise UserError("; ".join([text, *damaged[:3]])) from None
    for fault in damaged:
        command_line.log.warning("%s; what follows the damage is left out", fault)


def is_written(dataset: str | Path) -> bool:
    """Return whether a folder is a split that this project wrote; other programs also write a manifest.json.

    Raises:
        UserError: the name of the dataset is an empty text.
    """
    report.check_given("dataset", dataset)
    path = Path(dataset) / "manifest.json"
    if not path.is_file():
        return False
    try:
        manifest = read_json(path)
    except UserError:
        return False
    return isinstance(manifest, dict) and {"shards", "index_sha256"} <= set(manifest)


def _written(folder: Path) -> Iterator[Item]:
    index = shards.open_index(folder, ["key", "shard", "offset", "size", "caption", "label"])
    for start in range(0, len(index), CHUNK):
        rows = index.iloc[start : start + CHUNK]
        files = shards.read_images(folder, rows)
        for row, file in zip(rows.itertuples(), files, strict=True):
            yield Item(row.key, file, row.caption, int(row.label), row.key)


def source_of(dataset: str, named: Columns = USUAL, captions: bool = True) -> SourceSettings:
    """Return the source of a dataset by its kind.

    Args:
        captions: whether an item needs a caption; False: every picture is an item, also in the folders of a folder.

    Raises:
        UserError: the dataset does not exist or is of no known kind.
    """
    path, more = Path(dataset), {"accepted_skip_share": 1.0}
    tars, loose = (Shards, Loose) if captions else (ShardPictures, LoosePictures)
    if path.is_dir():
        entries = list(path.iterdir())
        if any(entry.suffix == ".tar" for entry in entries):
            beside = sum(entry.suffix.lower() in EXTENSIONS for entry in entries)
            if beside:
                command_line.log.warning("%s: holds shards and %d pictures; the pictures are not read", path, beside)
            return tars(splits={SPLIT: literal(path) + "/*.tar"}, **more).told_apart(SPLIT)
        if any(entry.suffix.lower() in EXTENSIONS for entry in entries):
            return loose(root=dataset, **more)
        if captions and any(entry.is_dir() for entry in entries):
            return Folder(root=str(path.parent), splits={SPLIT: path.name}, **more)
        if captions or next(picture_files(path), None) is None:
            raise UserError(f"{dataset}: holds no pictures; should be {KINDS}")
        return loose(root=dataset, **more)
    kind = path.suffix.lower()
    if kind in TABLES and path.is_file():
        table = Table if captions else TablePictures
        return table(splits={SPLIT: literal(path)}, **of_table(path, named, captions), **more)
    if kind in EXTENSIONS and path.is_file():
        return loose(root=dataset, **more)
    if TAR.search(path.name):
        return tars(splits={SPLIT: literal(path) if path.is_file() else dataset}, **more).told_apart(SPLIT)
    if not path.is_file():
        raise UserError(f"{dataset}: no such dataset; should be {KINDS}")
    raise UserError(f"{dataset}: is no dataset; should be {KINDS}")


def check_dataset(dataset: str | Path | Pairs, named: Columns) -> None:
    """Check a dataset without reading its pictures.

    Raises:
        UserError: as `source_of`.
    """
    if not isinstance(dataset, Pairs) and not is_written(dataset):
        source_of(str(dataset), named)


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
    return dataset if isinstance(dataset, Pairs) else _joined(list(chunks(stream(dataset, named), size)), dataset)


@dataclass(frozen=True)
class Pictures:
    """Pictures of a dataset in memory.

    Attributes:
        pairs: the pictures (N) with their keys.
        files: the path of each picture (N), see `Item`; the key for pairs in memory.
        omitted: what was left out.
    """

    pairs: Pairs
    files: list[str]
    omitted: Omitted


def load_pictures(dataset: str | Path | Pairs, named: Columns, size: int) -> Pictures:
    """Return all pictures of a dataset in memory, with or without captions, as uint8 of `size` pixels.

    Raises:
        UserError: as `stream`.
    """
    omitted, files = Omitted(), []
    if isinstance(dataset, Pairs):
        return Pictures(dataset, list(dataset.keys), omitted)

    def named_files() -> Iterator[Item]:
        for item in stream(dataset, named, omitted, captions=False):
            files.append(item.file)
            yield item

    return Pictures(_joined(list(chunks(named_files(), size)), dataset), files, omitted)


def _joined(parts: list[Pairs], dataset: str | Path) -> Pairs:
    if not parts:
        raise UserError(f"{dataset}: holds no usable pair")
    return Pairs(
        keys=[key for part in parts for key in part.keys],
        images=torch.cat([part.images for part in parts]),
        captions=[text for part in parts for text in part.captions],
        labels=torch.cat([part.labels for part in parts]),
    )
