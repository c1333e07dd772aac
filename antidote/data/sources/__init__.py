"""Where pairs come from: one source per file, one line each here."""

from typing import Annotated

from pydantic import Field

from antidote.data.sources.base import RawPair, Skipped, SourceSettings
from antidote.data.sources.folder import Folder
from antidote.data.sources.scenes import Scenes
from antidote.data.sources.table import Table
from antidote.data.sources.torchvision import Torchvision
from antidote.data.sources.webdataset import WebDataset

SOURCES: dict[str, type[SourceSettings]] = {
    "scenes": Scenes,
    "table": Table,
    "webdataset": WebDataset,
    "folder": Folder,
    "torchvision": Torchvision,
}

# One type for all, for the JSON Schema.
AnySource = Annotated[Scenes | Table | WebDataset | Folder | Torchvision, Field(discriminator="source")]

__all__ = ["SOURCES", "AnySource", "RawPair", "Skipped", "SourceSettings"]
