"""Random numbers that depend only on (seed, name, index): equal in every batch, process and numpy version.

numpy does not guarantee stable streams of its distributions across versions; here every number is a hash of a counter.
"""

import numpy as np

from antidote.base.seeds import derive


class Draws:
    """Named random numbers for the items `indices` of the stream `seed`.

    Example: `Draws(0, np.arange(8)).uniform("x", -1, 1)` is float64 (8,), equal on every machine.
    """

    def __init__(self, seed: int, indices: np.ndarray) -> None:
        """`indices`: integers (N,), each below 2**32."""
        self._seed = seed
        self._indices = indices.astype(np.uint64)

    def uniform(self, name: str, low: float = 0, high: float = 1) -> np.ndarray:
        """Return float64 (N,), uniform in [low, high)."""
        return low + (high - low) * _fraction(_mix(self._indices + self._key(name)))

    def choice(self, name: str, count: int) -> np.ndarray:
        """Return int64 (N,), uniform in [0, count)."""
        return (self.uniform(name) * count).astype(np.int64)

    def weighted(self, name: str, weights: list[float]) -> np.ndarray:
        """Return int64 (N,): indices of `weights`, drawn with probabilities proportional to the weights."""
        edges = np.cumsum(weights)
        return np.searchsorted(edges[:-1] / edges[-1], self.uniform(name), side="right")

    def noise(self, name: str, count: int) -> np.ndarray:
        """Return float32 (N, count), uniform in [-1, 1) in steps of 2**-15; each hash gives four values."""
        words = -(-count // 4)
        counters = (self._indices[:, None] << np.uint64(32)) + np.arange(words, dtype=np.uint64)
        quarters = _mix(counters + self._key(name)).astype("<u8", copy=False).view("<i2")
        return quarters[:, :count].astype(np.float32) / np.float32(2**15)

    def _key(self, name: str) -> np.uint64:
        return np.uint64(derive("draws", self._seed, name))


def _mix(x: np.ndarray) -> np.ndarray:
    """Hash counters to 64 random bits by SplitMix64 (Steele, Lea & Flood 2014); overflow of uint64 is intended."""
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _fraction(x: np.ndarray) -> np.ndarray:
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
