"""A table of picture URLs with captions; img2dataset downloads the pictures (`antidote.data.download.download`)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from antidote.base.errors import UserError
from antidote.base.settings import Seed, Settings
from antidote.data.sources.base import RawPair, Skipped
from antidote.data.sources.files import FileSource
from antidote.data.sources.webdataset import samples


class DownloadSettings(Settings):
    """Options of the download. They do not change the content of a picture, so a change repeats no download."""

    accepted: float = Field(0.5, ge=0, le=1, description="Smallest accepted share of successfully downloaded pictures.")
    timeout: int = Field(10, ge=1, description="Longest wait for data from a server, in seconds.")
    patience: int = Field(60, ge=1, description="Longest download time of one picture, in seconds.")
    largest: int = Field(64, ge=1, description="Largest size of one picture file, in MB.")
    retries: int = Field(1, ge=0, description="Immediate retries after a failure.")
    passes: int = Field(
        2, ge=1, description="Rounds over the table; a later round retries the failures that may be temporary."
    )
    connections: int = Field(
        64, ge=1, description="Concurrent downloads of each process; there is one process per core."
    )
    shard: int = Field(
        1000,
        ge=2,
        description="Addresses per work shard, the most work that a process loses by an interruption. A change applies "
        "to new rounds only.",
    )
    user_agent_token: str | None = Field(
        None, description="Name of the downloader in the user agent; opt-out headers can address this name."
    )


class Sample(Settings):
    """A part of a table, chosen before the download. The choice depends on the keys, not on the order of rows."""

    pairs: int = Field(ge=1, description="Number of addresses drawn at random.")
    seed: Seed = Field(0, description="Chooses the addresses.")
    keep: list[Annotated[str, Field(pattern=r"\S")]] = Field(
        [],
        description="Words. Every address whose first caption contains one of them, as a whole word in singular or "
        "plural, is added to the random addresses.",
    )


class UrlTable(FileSource):
    source: Literal["url_table"] = "url_table"
    downloads: ClassVar[bool] = True
    homepage: str = Field("", description="Web page that offers the table; shown in the message about a missing table.")
    columns: list[str] | None = Field(None, description="Column names for a table without a header line.")
    url: str = Field("url", description="Column with the address.")
    caption: str = Field(
        "caption",
        description="Column with a caption or a list of captions; an address in several rows gets all their captions.",
    )
    key: str | None = Field(
        None,
        description="Column with unique keys, converted to safe file names; null: keys are hashes of the addresses.",
    )
    rows: dict[str, int] | None = Field(None, description="Expected number of rows in the table of each split.")
    sample: Sample | None = Field(None, description="Part of the table to download; null downloads the whole table.")
    image_size: int | None = Field(
        256, ge=1, description="Size in pixels that pictures are reduced to at download; null keeps their size."
    )
    resize: Literal["keep_ratio", "keep_ratio_largest", "center_crop", "border"] = Field(
        "keep_ratio",
        description="Meaning of image_size, by img2dataset's names: the shorter side, the longer side (both reduce "
        "larger pictures only), a square crop, a square with a white border.",
    )
    quality: int = Field(95, ge=1, le=100, description="Quality of the stored JPEG files.")
    download: DownloadSettings = DownloadSettings()

    @model_validator(mode="after")
    def _named(self) -> "UrlTable":
        for name in ("url", "caption", "key"):
            column = getattr(self, name)
            if self.columns is not None and column is not None and column not in self.columns:
                raise ValueError(f"{name}: {column!r} is not among columns, {', '.join(self.columns)}")
        return self

    def fetched(self, split: str) -> str | None:
        return super().fetched(split) or "the pictures of its addresses"

    def _unreadable(self, split: str) -> list[str]:
        return []  # a table may have millions of rows; the download job reads it first

    def downloaded(self, report: dict[str, Any]) -> Iterator[RawPair | Skipped]:
        """Yield the pairs of a finished download, round by round, each round in the order of the table.

        Raises:
            UserError: a work shard is missing, or holds fewer pairs than the report says.
        """
        pairs_of = {Path(report["folder"]) / shard["name"]: shard["pairs"] for shard in report["shards"]}
        for file in pairs_of:
            if not file.is_file():
                raise UserError(f"{file}: is gone; remove the split's download.json, and it is downloaded again")
        for file, arrived in pairs_of.items():
            pairs = [sample for sample in samples(file) if not isinstance(sample, Skipped)]
            if len(pairs) != arrived:
                raise UserError(
                    f"{file}: is damaged, holds {len(pairs)} of {arrived} pairs; remove it and the split's "
                    "download.json, and it is downloaded again"
                )
            # img2dataset stores pictures in order of arrival; its keys are the row numbers of the addresses.
            for sample in sorted(pairs, key=lambda sample: sample["__key__"]):
                yield _pair(sample)


def _pair(sample: dict[str, Any]) -> RawPair | Skipped:
    try:
        facts = json.loads(sample["json"])
        origin = {"url": facts["url"], "sha256": facts["sha256"]}
        return RawPair(facts["pair"], sample["jpg"], facts["captions"], None, origin)
    except (KeyError, TypeError, ValueError):
        return Skipped(str(sample["__key__"]), "damaged member of a download")
