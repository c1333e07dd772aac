"""Pairs from webdataset tars, as img2dataset, DataComp and CLIP_benchmark write them: an image with txt, json or cls.

As in webdataset, a member's name up to its first dot is the key of its pair; the rest is the kind of content.
"""

import json
import lzma
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from antidote.base.errors import UserError
from antidote.data.sources.base import LARGEST, Damaged, RawPair, Skipped
from antidote.data.sources.files import FileSource, told_apart
from antidote.data.store.keys import PICTURES

IMAGES = (*PICTURES, "img")
LARGEST_HEADER = 10**6  # bytes; tarfile reads a header with a long name as a whole, whatever size it declares
LONG = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
META = r"__[^/]*__($|/)"  # metadata members, not samples
FAULTS = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
# First bytes of other file types, and a message with the type and a remedy.
NO_TAR = (
    (b"\x28\xb5\x2f\xfd", "is packed by zstd, which is not read: unpack it (`zstd -d`), or pack it by gzip or xz"),
    (b"PK\x03\x04", "is a zip and no tar: pack its files anew"),
    (b"PAR1", "is Parquet and no tar: see the source table"),
    (b"version https://git-lfs", "is a pointer of Git LFS and not the file: `git lfs pull` brings it"),
    (b"<", "is a page of the web and no tar: fetch it again"),
)
NO_PICTURE, NO_CAPTION = "no picture member", "no caption"
DOTS = "keys with a dot, where webdataset ends a key: rename the members"
APART = "members of a sample are not adjacent: sort the members by name"
DAMAGED = "damaged txt, cls or json member"
LINES = "txt of several lines, read as a caption per line"
JOINED = "txt of several lines, read as one caption"
CLASS_NAME = "class name in cls, read without a label, which needs `classes`"
SEVERAL = "several pictures in a sample, of which the first kind is read"
NO_OBJECT = "json that is no object, not read"


class WebDataset(FileSource):
    source: Literal["webdataset"] = "webdataset"
    twice: ClassVar[str] = "`prefix: true` tells pairs of different shards apart"
    caption: str | None = Field(
        "caption",
        description="Key of the caption, or list of captions, in a json member without a key `captions`; captions "
        "from json follow the caption from txt.",
    )
    lines: bool | None = Field(
        None,
        description="true: each line of a txt is a caption (CLIP_benchmark); false: the whole txt is one caption; "
        "null: one caption if the json member holds the same text (img2dataset), else one caption per line. The log "
        "reports the number of txt members with several lines.",
    )
    prefix: bool = Field(
        False,
        description="Whether keys get the shard's name as a prefix. Needed for shards from several runs that reuse "
        "keys for different pictures.",
    )

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        files = self.files(split)
        names = told_apart(files) if self.prefix else [""] * len(files)
        for file, name in zip(files, names, strict=True):
            yield from self._shard(file, f"{name}/" if name else "")

    def _shard(self, file: Path, prefix: str) -> Iterator[RawPair | Skipped]:
        """Yield the pairs of a shard; incomplete pairs come last, because the missing part may follow later."""
        parts: dict[str, list[Skipped]] = {}
        for sample in samples(file):
            found = sample if isinstance(sample, Damaged) else self._pair(sample, prefix)
            if isinstance(found, Skipped) and found.reason in (NO_PICTURE, NO_CAPTION):
                parts.setdefault(found.key, []).append(found)
            else:
                yield found
        for key, lacking in parts.items():
            apart = {part.reason for part in lacking} == {NO_PICTURE, NO_CAPTION}
            yield from [Skipped(key, APART)] if apart else lacking

    def _pair(self, sample: dict[str, Any], prefix: str) -> RawPair | Skipped:
        key, notes = prefix + sample["__key__"].removeprefix("./"), Counter()
        members = [name for name in sample if not name.startswith("__")]
        kinds = [kind for kind in IMAGES if kind in sample]
        if not kinds:
            dots = any(name.rpartition(".")[2] in IMAGES for name in members)
            return Skipped(key, DOTS if dots else NO_PICTURE, f"holds {_some(members)}")
        try:
            more = json.loads(sample["json"]) if "json" in sample else {}
            name = sample["cls"].decode().strip() if "cls" in sample else None
            text = sample["txt"].decode() if "txt" in sample else None
        except (ValueError, RecursionError):  # includes json's and decode's errors
            return Skipped(key, DAMAGED)
        if name == "":
            return Skipped(key, DAMAGED)
        label = int(name) if name is not None and re.fullmatch(r"[+-]?[0-9]{1,18}", name) else None
        notes[SEVERAL] = len(kinds) > 1
        notes[NO_OBJECT] = not isinstance(more, dict)
        notes[CLASS_NAME] = name is not None and label is None and self.class_list is None
        more = more if isinstance(more, dict) else {}
        captions = self._captions(text, more, notes)
        if not captions and name is None:
            found = f"; json without {self.caption!r} (setting `caption`), with {_some(more)}" if more else ""
            return Skipped(key, NO_CAPTION, f"holds {_some(members)}{found}")
        origin = {part: more.get(part) for part in ("url", "sha256")}
        class_name = name if label is None else None
        return self.labelled(key, sample[kinds[0]], captions, label, class_name, origin, [*(+notes)])

    def _captions(self, text: str | None, more: dict[str, Any], notes: Counter[str]) -> list[Any]:
        """Return the captions of the txt member, then the further captions of the json member."""
        others = more.get("captions") if isinstance(more.get("captions"), list) else more.get(self.caption)
        others = others if isinstance(others, list) else [others]
        captions = self._texts(text, others, notes)
        known = [_plain(caption) for caption in [*captions, text]]
        return captions + [other for other in others if other is not None and _plain(other) not in known]

    def _texts(self, text: str | None, others: list[Any], notes: Counter[str]) -> list[str]:
        """Return the captions of a txt member; `lines` decides whether several lines are several captions."""
        parts = [] if text is None else [line for line in text.split("\n") if line.strip()]
        if len(parts) < 2:
            return [] if text is None else [text]
        one = any(_plain(other) == _plain(text) for other in others)
        apart = not one if self.lines is None else self.lines
        notes[LINES if apart else JOINED] += 1
        return parts if apart else [text]


def _plain(text: Any) -> Any:
    """Return a text with single spaces, as captions are stored; other values unchanged."""
    return " ".join(text.split()) if isinstance(text, str) else text


def _some(names: Any) -> str:
    """Return the first five names, and the number of further names."""
    names = [str(name) for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def samples(file: Path) -> Iterator[dict[str, Any] | Damaged]:
    """Yield the samples of one tar; for a truncated or damaged tar, a last item `Damaged`.

    Raises:
        UserError: the file is not a tar.
    """
    from webdataset.tariterators import group_by_keys

    faults: list[Exception] = []
    yield from group_by_keys(_members(file, faults), handler=lambda fault: faults.append(fault) or True)
    if faults:
        yield Damaged(str(file), _fault(faults[0]))


def _fault(fault: Exception) -> str:
    text = str(next(iter(fault.args), ""))
    twice = re.match(r"(.*): duplicate file name", text)
    if twice:
        return f"holds two members of one name ({twice[1]})"
    large = re.search(r"header of more than \d+ MB", text)  # of the first header, among the texts of all packings
    return large[0] if large else text if text.startswith("member of more") else "truncated or damaged"


class _Header(tarfile.TarInfo):
    """A header of a tar; one that declares a name of more than `LARGEST_HEADER` bytes is not read."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:  # the entry point for subclasses
        if self.type in LONG and self.size > LARGEST_HEADER:
            raise tarfile.ReadError(f"header of more than {LARGEST_HEADER // 10**6} MB")
        return super()._proc_member(archive)


def open_tar(file: Path) -> tarfile.TarFile:
    """Open a tar, packed or not, whose headers have bounded sizes.

    Raises:
        tarfile.ReadError: the file is no tar, or its first header is too large, as a later one is when it is reached.
    """
    return tarfile.open(file, tarinfo=_Header)


def _members(file: Path, faults: list[Exception]) -> Iterator[dict[str, Any]]:
    """Yield the files of a tar in the format of webdataset's reader, without unpacking to disk.

    webdataset's own reader is not used: it executes a path that begins with `pipe:` as a command, and treats a damaged
    header as the end of the tar.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(32)
        other = next((what for first, what in NO_TAR if start.startswith(first)), None)
        if other is not None:
            raise UserError(f"{file}: {other}")
        with open_tar(file) as tar:
            while (member := tar.next()) is not None:
                if member.size > LARGEST:
                    raise tarfile.ReadError(f"member of more than {LARGEST // 10**6} MB ({member.name})")
                if member.isreg() and not re.match(META, member.name):
                    yield {"fname": member.name, "data": tar.extractfile(member).read(), "__url__": str(file)}
                tar.members = []  # otherwise tarfile keeps the whole table of contents in memory
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                faults.append(tarfile.ReadError("no end-of-archive mark"))
    except FAULTS as fault:
        faults.append(fault)
