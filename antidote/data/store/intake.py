"""The door into a dataset: every pair that a source offers is checked, given a safe key, or counted as skipped."""

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

EXAMPLES, REASONS = 20, 8  # pairs in the manifest, reasons in a message
TWICE = "duplicate key"
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}
LOSSY = ("JPEG", "MPO", "AVIF")  # and WebP, which may be either


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
    """Checks each pair that a source offers, and counts what cannot be used."""

    def __init__(self, image_size: int | None, subset: Mapping[str, str] | None = None) -> None:
        """Prepare for one split.

        Args:
            image_size: pixels of the shorter side that larger pictures are reduced to; None leaves them.
            subset: keys of the pairs to take, with the SHA-256 of their picture files as downloaded, or as the source
                offers them; None takes all. Others do not count as offered; one that does not come counts as skipped.
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
        """Return the pair to store; None for what is skipped, or not wanted."""
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
        """Decide whether the split is good enough.

        Raises:
            UserError: no usable pair, too many unusable ones, or another number than expected; a file is damaged, and
                neither `expected` nor a subset says how many pairs it has lost.
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
        """Count what damaged files have lost as skipped, by the number of pairs that the split should have."""
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
        """Return the SHA-256 that a picture must have, "" for any, None for one that is not listed; each once."""
        return "" if self._listed is None else self._listed.pop(safe_key(key), None)

    def _typical(self) -> list[dict[str, str]]:
        """Return the examples, first one for each reason, the most frequent reason first."""
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
    """Return a text that a file can hold, also for the name of a file that is no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _shown(example: Mapping[str, str]) -> str:
    return f"{example['key']}: {example['detail']}" if "detail" in example else example["key"]


def _counted(found: Counter[str]) -> str:
    """Return what there is how often, the most frequent first; a few of many."""
    shown = ", ".join(f"{number} x {reason}" for reason, number in found.most_common(REASONS))
    rest = len(found) - REASONS
    return shown + (f", and {rest} reasons more" if rest > 0 else "")


def _digest(item: RawPair) -> str:
    """Return the SHA-256 of a picture file as downloaded, or as offered."""
    data = item.image if isinstance(item.image, bytes) else np.ascontiguousarray(item.image).tobytes()
    return item.origin.get("sha256") or hashlib.sha256(data).hexdigest()


def image_file(image: bytes | np.ndarray, size: int | None) -> tuple[bytes, str]:
    """Return an image file and its extension.

    A file stays as it is, byte for byte, unless its shorter side is to shrink or its format is neither PNG, JPEG (MPO,
    the JPEG of phones, included) nor WebP. A picture of a lossy format that shrinks becomes a JPEG (quality 95, no
    chroma subsampling), everything else a PNG.

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
    """Tell whether the (first) picture of a WebP file is stored without loss: the chunk VP8L, RFC 9649."""
    place = 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        place += 24 if kind == b"ANMF" else 8 + size + size % 2  # a frame's 16 bytes, then its own chunks
    return False
