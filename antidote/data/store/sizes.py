"""How many bytes pictures take on the disk, before any is there."""

from antidote.data.sources.base import SourceSettings
from antidote.data.sources.url_table import UrlTable

JPEG_PER_PIXEL = 0.4  # bytes, of photographs as JPEG of quality 95
ASPECT = {"keep_ratio": 1.4, "keep_ratio_largest": 1 / 1.4, "center_crop": 1.0, "border": 1.0}
ORIGINAL_BYTES = 150_000  # of a photograph of the web, or of ImageNet, that is not reduced
LOSSLESS_PER_PIXEL = 2.0  # bytes, as PNG
SMALL = {"CIFAR10": 32, "CIFAR100": 32, "SVHN": 32, "STL10": 96, "GTSRB": 64}  # pixels a side


def picture_bytes(settings: SourceSettings, split: str) -> float:
    """Return about how many bytes a stored picture of a split takes."""
    if settings.image_size is not None:
        resize = settings.resize if isinstance(settings, UrlTable) else "keep_ratio"
        return JPEG_PER_PIXEL * settings.image_size**2 * ASPECT[resize]
    drawn = getattr(settings, "size", None) or SMALL.get(getattr(settings, "dataset", ""))
    if drawn:
        return LOSSLESS_PER_PIXEL * drawn**2
    # Imagenette comes in sizes, such as 160px.
    asked = str(settings.split(split).get("size", "")) if settings.source == "torchvision" else ""
    if asked.endswith("px"):
        return JPEG_PER_PIXEL * int(asked.removesuffix("px")) ** 2 * ASPECT["keep_ratio"]
    return ORIGINAL_BYTES
