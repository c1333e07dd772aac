"""Keys of pairs: names that a tar header, a file system and webdataset all take as they are."""

import hashlib
import re

KEY_LENGTH = 64
# Endings of picture files, in the order in which the one to take is looked for where a pair has several.
PICTURES = (
    "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
    "pfm", "avif", "jp2", "j2k", "jpf", "jpx",
)  # fmt: skip


class Keys:
    """Gives each name of a split a key of its own."""

    def __init__(self) -> None:
        self._origins: dict[str, bytes] = {}

    def new(self, origin: str) -> str | None:
        """Return a safe key that no earlier name has; None where an earlier pair came under the same name."""
        digest = hashlib.sha256(_bytes(origin)).digest()[:8]
        for key in (safe_key(origin), f"{safe_key(origin)}-{digest.hex()}"):
            if key not in self._origins:
                self._origins[key] = digest
                return key
            if self._origins[key] == digest:
                return None
        return None


def safe_key(key: str) -> str:
    """Return the key with letters, digits, `_` and `-` only, without an image extension, at most 64 characters.

    In webdataset a dot ends the key, a slash makes a folder and a leading `__` marks what is no pair; names of more
    than 100 characters do not fit a plain tar header.
    """
    stem = re.sub(rf"\.({'|'.join(PICTURES)})$", "", key, flags=re.IGNORECASE)
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "pair"
    if len(safe) <= KEY_LENGTH:
        return safe
    return f"{safe[: KEY_LENGTH - 17]}-{hashlib.sha256(_bytes(key)).hexdigest()[:16]}"


def _bytes(name: str) -> bytes:
    """Return a name as bytes, also that of a file whose name is no UTF-8."""
    return name.encode(errors="surrogatepass")
