"""Estimates of the size of stored pictures, for checks of free disk space before a download."""

from antidote.data.sources.base import SourceSettings
from antidote.data.sources.url_table import UrlTable

JPEG_PER_PIXEL = 0.4  # bytes per pixel of photographs, JPEG of quality 95
ASPECT = {"keep_ratio": 1.4, "keep_ratio_largest": 1 / 1.4, "center_crop": 1.0, "border": 1.0}
ORIGINAL_BYTES = 150_000  # bytes of a photograph from the web or ImageNet at its original size
LOSSLESS_PER_PIXEL = 2.0  # bytes per pixel, PNG
SMALL = {"CIFAR10": 32, "CIFAR100": 32, "SVHN": 32, "STL10": 96, "GTSRB": 64}  # side in pixels


def picture_bytes(settings: SourceSettings, split: str) -> float:
    """Return the estimated size in bytes of one stored picture of a split."""
    if settings.image_size is not None:
        resize = settings.resize if isinstance(settings, UrlTable) else "keep_ratio"
        return JPEG_PER_PIXEL * settings.image_size**2 * ASPECT[resize]
    drawn = getattr(settings, "size", None) or SMALL.get(getattr(settings, "dataset", ""))
    if drawn:
        return LOSSLESS_PER_PIXEL * drawn**2
    # Imagenette is published in several sizes, such as 160px.
    asked = str(settings.split(split).get("size", "")) if settings.source == "torchvision" else ""
    if asked.endswith("px"):
        return JPEG_PER_PIXEL * int(asked.removesuffix("px")) ** 2 * ASPECT["keep_ratio"]
    return ORIGINAL_BYTES
