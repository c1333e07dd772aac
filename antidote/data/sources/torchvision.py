"""Any labelled dataset of torchvision, selected by its class name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from antidote.base.errors import UserError, nearest
from antidote.base.network import limited
from antidote.data.sources.base import RawPair, Skipped, SourceSettings, read_file, unread
from antidote.data.store import images

NO_SETTINGS = {"self", "root", "download", "loader", "transform", "target_transform", "transforms"}


class Torchvision(SourceSettings):
    source: Literal["torchvision"] = "torchvision"
    dataset: str = Field(description="Class in torchvision.datasets, such as CIFAR10.")
    root: str = Field("data/downloads", description="Folder of the dataset's files.")
    download: bool = Field(True, description="Whether missing files are downloaded.")
    splits: dict[str, dict[str, Any]] = Field(
        description="Per split the arguments of the class, such as {train: true}."
    )

    def iterate(self, split: str) -> Iterator[RawPair | Skipped]:
        import numpy as np

        data = self._open(split)
        classes = self._classes(data)
        # Original image files if the dataset exposes their paths, decoded pictures otherwise.
        files = getattr(data, "samples", None) or getattr(data, "_samples", None)
        for number in range(len(data)):
            key = f"{split}-{number:07d}"
            try:
                if files:
                    image, label = read_file(Path(files[number][0])), files[number][1]
                else:
                    picture, label = data[number]
                    images.check_greys(picture)
                    image = np.asarray(images.rgb(picture))
            except images.UnreadablePicture as error:
                yield Skipped(key, str(error))
                continue
            except OSError as error:
                yield unread(key, files[number][0] if files else f"{self.dataset}[{number}]", error)
                continue
            if not isinstance(label, int | np.integer):
                raise UserError(f"dataset: {self.dataset} gives no integer labels")
            label = int(label)
            class_name = classes[label] if classes and 0 <= label < len(classes) else None
            yield self.labelled(key, image, [], label, class_name)

    def absent(self, split: str) -> list[str]:
        if self.dataset != "ImageNet":
            return []
        kind, root = self.split(split).get("split", "train"), Path(self.root)
        unpacked = {"ILSVRC2012_devkit_t12.tar.gz": "meta.bin", f"ILSVRC2012_img_{kind}.tar": f"{kind}/n01440764"}
        return [
            f"{root / archive}: not there"
            for archive, made in unpacked.items()
            if not (root / archive).is_file() and not (root / made).exists()
        ]

    def fetched(self, split: str) -> str | None:
        return f"torchvision's {self.dataset}" if self.download and self.dataset != "ImageNet" else None

    def _open(self, split: str) -> Any:
        import inspect

        from torchvision import datasets

        if self.dataset not in datasets.__all__:
            raise UserError(f"dataset: torchvision has no {self.dataset!r}{nearest(self.dataset, datasets.__all__)}")
        kind = getattr(datasets, self.dataset)
        known, given = inspect.signature(kind.__init__).parameters, dict(self.split(split))
        for argument in given:
            if argument not in known or argument in NO_SETTINGS:
                valid = nearest(argument, set(known) - NO_SETTINGS)
                raise UserError(f"splits.{split}: {self.dataset} has no argument {argument!r}{valid}")
        common = {"root": self.root, "download": self.download}
        given = {**{name: value for name, value in common.items() if name in known}, **given}
        Path(self.root).mkdir(parents=True, exist_ok=True)
        try:
            with limited():
                return kind(**given)
        except ImportError as error:
            raise UserError(
                f"splits.{split}: {self.dataset}: torchvision needs the package {error.name!r} for it; install it with "
                f"`pip install {error.name}`"
            ) from None
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            raise UserError(f"splits.{split}: {self.dataset}: {' '.join(str(error).split())}") from None

    def _classes(self, data: Any) -> list[str] | None:
        """Return class names in label order; the first name of a class with several names (torchvision's ImageNet)."""
        there = getattr(data, "classes", None)
        there = [name if isinstance(name, str) else name[0] for name in there] if there else None
        if self.class_list is None:
            return there
        if there and len(there) != len(self.class_list):
            raise UserError(f"classes: {self.classes!r} has {len(self.class_list)} names, {self.dataset} {len(there)}")
        return self.class_list
