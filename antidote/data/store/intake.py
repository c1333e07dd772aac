"""Validation of incoming pairs: each pair from a source gets a safe key, or is counted as skipped."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from antidote.base.errors import UserError
from antidote.data.sources.base import Damaged, RawPair, Skipped, SourceSettings
from antidote.data.store import images
from antidote.data.store.keys import Keys, safe_key

log = logging.getLogger(__name__)

EXAMPLES, REASONS = 20, 8  # most examples in the manifest, most reasons in a message
TWICE = "duplicate key"
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}
LOSSY = ("JPEG", "MPO", "AVIF")  # WebP can be lossy or lossless; `_lossless_webp` decides


@dataclass(frozen=True)
class Pair:
    """A pair ready to be stored."""

    key: str
    image: bytes
    format: str  # png, jpg or webp
    captions: list[str]
    label: int | None
    origin: Mapping[str, str]


class Intake:
    """Checks each pair from a source, and counts the unusable pairs by reason."""

    def __init__(self, image_size: int | None, subset: Mapping[str, str] | None = None) -> None:
        """Prepare for one split.

        Args:
            image_size: shorter side in pixels that larger pictures are reduced to; None keeps their size.
            subset: keys of the pairs to take, with the SHA-256 of their picture files as downloaded or as read from the
                source; None takes all pairs. Pairs outside the subset are not counted; a listed pair that is missing
                counts as skipped.
        """
        self.offered = 0
        self.skipped: Counter[str] = Counter()
        self.adapted: Counter[str] = Counter()
        self.examples: list[dict[str, str]] = []
        self.damaged: list[str] = []
        self._image_size = image_size
        self._listed = None if subset is None else dict(subset)
        self._keys = Keys()

    def take(self, item: RawPair | Skipped) -> Pair | None:
        """Return the pair to store; None for a skipped pair, or a pair outside the subset."""
        if isinstance(item, Damaged):
            self.damaged.append(f"{item.key}: {item.reason}")
            return None
        wanted = self._wanted(item.key)
        if wanted is None:
            return None
        self.offered += 1
        if isinstance(item, Skipped):
            return self._skip(item.key, item.reason, detail=item.detail)
        if not item.captions:
            return self._skip(item.key, "no caption")
        if wanted and wanted != _digest(item):
            return self._skip(item.key, "another picture than the subset lists")
        try:
            image, extension = image_file(item.image, self._image_size)
        except images.UnreadablePicture as error:
            return self._skip(item.key, str(error))
        key = self._keys.new(item.key)
        if key is None:
            return self._skip(item.key, TWICE)
        self.adapted.update(item.notes)
        return Pair(key, image, extension, item.captions, item.label, item.origin)

    def judge(self, dataset: str, split: str, settings: SourceSettings) -> None:
        """Decide whether the split is accepted.

        Raises:
            UserError: no usable pair, too many unusable pairs, or an unexpected number of pairs; or a damaged file, if
                neither `expected` nor a subset gives the number of its lost pairs.
        """
        for key in self._listed or ():
            self.offered += 1
            self._skip(key, "listed in the subset, but not there")
        name, expected = f"{dataset}/{split}", (settings.expected or {}).get(split)
        if self.damaged:
            self._count_lost(name, expected)
        count = sum(self.skipped.values())
        shown = ", ".join(map(_shown, self._typical()[:3]))
        detail = f" ({_counted(self.skipped)}; such as {shown}{self._advice(settings)})" if count else ""
        if self.offered == count:
            raise UserError(f"{name}: holds no usable pair{detail}")
        if count > settings.accepted_skip_share * self.offered:
            accepted = f"accepted_skip_share is {settings.accepted_skip_share:g}"
            raise UserError(f"{name}: {count} of {self.offered} pairs cannot be used{detail}; {accepted}")
        if expected not in (None, self.offered):
            raise UserError(f"{name}: offers {self.offered} pairs, expected {expected}{detail}")
        if count:
            log.warning("%s: skipped %d of %d pairs%s", name, count, self.offered, detail)
        if self.adapted:
            log.warning("%s: read otherwise than written: %s", name, _counted(self.adapted))

    def _count_lost(self, name: str, expected: int | None) -> None:
        """Count the lost pairs of damaged files as skipped: the expected number of pairs less the pairs read."""
        shown = "; ".join(self.damaged[:3]) + (f"; and {len(self.damaged) - 3} more" if len(self.damaged) > 3 else "")
        if expected is None and self._listed is None:
            advice = "fetch again what is damaged, or say by `expected` how many pairs to count"
            raise UserError(f"{name}: {shown}; {advice}")
        log.warning("%s: %s", name, shown)
        lost = max((expected or 0) - self.offered, 0)
        if lost:
            self.offered += lost
            self._skip(shown, "lost in a damaged file", lost)

    def _wanted(self, key: str) -> str | None:
        """Return the required SHA-256 of a picture, "" without a subset, None if not listed; a key counts once."""
        return "" if self._listed is None else self._listed.pop(safe_key(key), None)

    def _typical(self) -> list[dict[str, str]]:
        """Return the examples, ordered so that each reason appears once before any appears twice, frequent first."""
        ranks = {reason: rank for rank, (reason, _) in enumerate(self.skipped.most_common())}
        seen: Counter[str] = Counter()
        places = []
        for example in self.examples:
            places.append((seen[example["reason"]], ranks[example["reason"]]))
            seen[example["reason"]] += 1
        order = sorted(range(len(places)), key=places.__getitem__)
        return [self.examples[row] for row in order]

    def _advice(self, settings: SourceSettings) -> str:
        return f"; {settings.twice}" if settings.twice and self.skipped[TWICE] else ""

    def _skip(self, key: str, reason: str, count: int = 1, detail: str = "") -> None:
        self.skipped[reason] += count
        if len(self.examples) < EXAMPLES:
            values = {"key": _plain(key), "reason": reason, **({"detail": _plain(detail)} if detail else {})}
            self.examples.append(values)


def _plain(text: str) -> str:
    """Return a text that UTF-8 can encode; invalid characters, as in some file names, become escapes."""
    return text.encode(errors="backslashreplace").decode()


def _shown(example: Mapping[str, str]) -> str:
    return f"{example['key']}: {example['detail']}" if "detail" in example else example["key"]


def _counted(found: Counter[str]) -> str:
    """Return reasons with their counts, the most frequent first, REASONS of them at most."""
    shown = ", ".join(f"{number} x {reason}" for reason, number in found.most_common(REASONS))
    rest = len(found) - REASONS
    return shown + (f", and {rest} reasons more" if rest > 0 else "")


def _digest(item: RawPair) -> str:
    """Return the SHA-256 of a picture file as downloaded, or as read from the source."""
    data = item.image if isinstance(item.image, bytes) else np.ascontiguousarray(item.image).tobytes()
    return item.origin.get("sha256") or hashlib.sha256(data).hexdigest()


def image_file(image: bytes | np.ndarray, size: int | None) -> tuple[bytes, str]:
    """Return an image file and its extension.

    A PNG, JPEG (including MPO, the JPEG of phones) or WebP file that is not reduced stays the same byte for byte. A
    reduced picture of a lossy format becomes a JPEG (quality 95, no chroma subsampling); every other picture becomes a
    PNG.

    Args:
        image: an image file, or uint8 (height, width, 3).
        size: shorter side in pixels that a larger picture is reduced to; None keeps the size.

    Raises:
        UnreadablePicture: the picture cannot be used.
    """
    picture = images.decode(image) if isinstance(image, bytes) else images.Image.fromarray(image)
    shrink = size is not None and min(picture.size) > size
    if not shrink and picture.format in EXTENSIONS:
        return image, EXTENSIONS[picture.format]
    converted = images.rgb(picture)
    small = images.shorter_side(converted, size) if shrink else converted
    if shrink and (picture.format in LOSSY or (picture.format == "WEBP" and not _lossless_webp(image))):
        return images.encode_jpeg(np.asarray(small)), "jpg"
    return images.encode_png(np.asarray(small)), "png"


def _lossless_webp(data: bytes) -> bool:
    """Return whether the first picture of a WebP file is lossless (chunk VP8L, RFC 9649)."""
    place = 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        place += 24 if kind == b"ANMF" else 8 + size + size % 2  # ANMF: 16 bytes of frame header, then nested chunks
    return False
