"""Pictures in folders, one folder per class: root/{split}/{class}/picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from antidote.data.sources.base import RawPair, Skipped, SourceSettings
from antidote.errors import UserError, nearest
from antidote.settings import read_mapping

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp", ".gif")


class Folder(SourceSettings):
    source: Literal["folder"] = "folder"
    root: str = Field(description="Folder that holds the folders of the splits.")
    splits: dict[str, str] = Field(description="Per split its folder under root.")
    names: dict[str, str] | str | None = Field(
        None, description="Class name of each class folder, such as n01440764: tench, or a file of that; null: its own."
    )

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        root = Path(self.root) / self.split(split)
        folders = sorted(path for path in root.glob("*") if path.is_dir())
        if not folders:
            raise UserError(f"splits.{split}: {root}: no such folder, or no class folders in it")
        for number, (folder, class_name) in enumerate((folder, self._class_name(folder.name)) for folder in folders):
            # Without a list of classes the label is the folder's position, as in torchvision's ImageFolder.
            label = None if self.class_list else number
            for path in sorted(folder.rglob("*")):
                if path.suffix.lower() in EXTENSIONS:
                    yield self._pair(path, root, label, class_name)

    def _class_name(self, folder: str) -> str:
        names = self._names()
        name = names.get(folder, folder)
        if names and folder not in names:
            raise UserError(f"names: no class name for folder {folder!r}{nearest(folder, names)}")
        if self.class_list and name not in self.class_list:
            raise UserError(f"classes: {self.classes!r} has no class {name!r}{nearest(name, self.class_list)}")
        return name

    def _names(self) -> dict[str, str]:
        return read_mapping(self.names) if isinstance(self.names, str) else self.names or {}

    def _pair(self, path: Path, root: Path, label: int | None, class_name: str) -> RawPair | Skipped:
        key = str(path.relative_to(root))
        try:
            return self.labelled(key, path.read_bytes(), [], label, class_name)
        except OSError:
            return Skipped(key, "picture file cannot be read")
