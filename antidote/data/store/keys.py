"""Keys of pairs: names that are valid in tar headers, file systems and webdataset."""

import hashlib
import re

KEY_LENGTH = 64
# Extensions of picture files, in order of preference for a pair with several picture files.
PICTURES = (
    "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
    "pfm", "avif", "jp2", "j2k", "jpf", "jpx",
)  # fmt: skip


class Keys:
    """Assigns a unique key to each name of a split."""

    def __init__(self) -> None:
        self._origins: dict[str, bytes] = {}

    def new(self, origin: str) -> str | None:
        """Return a safe key that no earlier name has; None if the same name was passed before."""
        digest = hashlib.sha256(_bytes(origin)).digest()[:8]
        for key in (safe_key(origin), f"{safe_key(origin)}-{digest.hex()}"):
            if key not in self._origins:
                self._origins[key] = digest
                return key
            if self._origins[key] == digest:
                return None
        return None


def safe_key(key: str) -> str:
    """Return the key reduced to letters, digits, `_` and `-`, without an image extension, at most 64 characters.

    In webdataset, a dot ends the key, a slash makes a folder, and a leading `__` marks metadata. Names of more than
    100 characters do not fit a plain tar header.
    """
    stem = re.sub(rf"\.({'|'.join(PICTURES)})$", "", key, flags=re.IGNORECASE)
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "pair"
    if len(safe) <= KEY_LENGTH:
        return safe
    return f"{safe[: KEY_LENGTH - 17]}-{hashlib.sha256(_bytes(key)).hexdigest()[:16]}"


def _bytes(name: str) -> bytes:
    """Return a name as bytes; file names that are not valid UTF-8 are allowed."""
    return name.encode(errors="surrogatepass")
