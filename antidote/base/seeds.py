"""Seeds derived by name, so that two uses of one study seed never share a random stream."""

import hashlib


def derive(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part, and is the same on every machine and in every process.

    Example:
        generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") >> 1
