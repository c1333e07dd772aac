"""A table of addresses of pictures with captions; img2dataset downloads them (`antidote.data.download.download`)."""

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
    """How pictures are fetched. What has arrived does not depend on it, so a change repeats no download."""

    accepted: float = Field(0.5, ge=0, le=1, description="Smallest accepted share of pictures that arrive.")
    timeout: int = Field(10, ge=1, description="Seconds that a server may be silent.")
    patience: int = Field(60, ge=1, description="Seconds that one picture may take.")
    largest: int = Field(64, ge=1, description="MB that one picture file may have.")
    retries: int = Field(1, ge=0, description="Further tries at once.")
    passes: int = Field(
        2, ge=1, description="Rounds over the table; a later one tries what failed for a reason that may have gone by."
    )
    connections: int = Field(64, ge=1, description="Pictures fetched at a time by each process; one process per core.")
    shard: int = Field(
        1000,
        ge=2,
        description="Addresses per work shard: what an interruption may cost a process. A round that has begun keeps "
        "the number it began with.",
    )
    user_agent_token: str | None = Field(
        None, description="Name under which the download shows itself, and which opt-out headers may speak to."
    )


class Sample(Settings):
    """A part of a table, chosen before anything is downloaded; it depends on the keys and not on their order."""

    pairs: int = Field(ge=1, description="Addresses drawn at random.")
    seed: Seed = Field(0, description="Chooses the addresses.")
    keep: list[Annotated[str, Field(pattern=r"\S")]] = Field(
        [],
        description="Words; beyond the random ones, every address whose (first) caption names one, as a whole word, "
        "singular or plural.",
    )


class UrlTable(FileSource):
    source: Literal["url_table"] = "url_table"
    downloads: ClassVar[bool] = True
    homepage: str = Field("", description="Where to get the table; shown where it is missing.")
    columns: list[str] | None = Field(None, description="Names of the columns of a table that has no header line.")
    url: str = Field("url", description="Column with the address.")
    caption: str = Field(
        "caption", description="Column with a caption or a list of them; all of one address stay together."
    )
    key: str | None = Field(
        None, description="Column with unique keys, made safe as file names; null makes them from the addresses."
    )
    rows: dict[str, int] | None = Field(None, description="Rows that the table of each split should have.")
    sample: Sample | None = Field(None, description="Part of the table to download; null downloads all of it.")
    image_size: int | None = Field(
        256, ge=1, description="Pixels that pictures are reduced to on the way in; null keeps their size."
    )
    resize: Literal["keep_ratio", "keep_ratio_largest", "center_crop", "border"] = Field(
        "keep_ratio",
        description="What image_size means, in img2dataset's words: the shorter side, the longer side (both reduce "
        "larger pictures only), a square cut out, a square with a white border.",
    )
    quality: int = Field(95, ge=1, le=100, description="Quality of the JPEG files that are stored.")
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
        return []  # a table of millions of rows; the download begins with reading it

    def downloaded(self, report: dict[str, Any]) -> Iterator[RawPair | Skipped]:
        """Yield what a finished download holds, in the order of the table, one round after the other.

        Raises:
            UserError: a work shard is gone, or holds fewer pairs than have arrived.
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
            # img2dataset stores pictures as they arrive; its keys number the addresses.
            for sample in sorted(pairs, key=lambda sample: sample["__key__"]):
                yield _pair(sample)


def _pair(sample: dict[str, Any]) -> RawPair | Skipped:
    try:
        facts = json.loads(sample["json"])
        origin = {"url": facts["url"], "sha256": facts["sha256"]}
        return RawPair(facts["pair"], sample["jpg"], facts["captions"], None, origin)
    except (KeyError, TypeError, ValueError):
        return Skipped(str(sample["__key__"]), "damaged member of a download")
