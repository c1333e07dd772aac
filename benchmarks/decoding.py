"""Ways to get a picture of 224 pixels out of a JPEG of about 500 x 375, beside Pillow's, which the project uses.

Per way: pictures per second of processor time on one thread, as a multiple of Pillow's, and the largest difference of a
pixel. A way with other pixels would make other models and other scores. Rounds of all ways alternate; the best counts.
simplejpeg is measured where it is installed (`pip install --target /tmp/simplejpeg simplejpeg`, then PYTHONPATH).

    python benchmarks/decoding.py
"""

import argparse
import importlib.util
import io
import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from measured import say_machine
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as T

from antidote.data.scenes.draw import generate
from antidote.data.store.images import decode, fit

log = logging.getLogger("benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    say_machine("torch", "torchvision", "Pillow", "numpy")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    files = jpegs(options)
    ways = {name: (lambda data, way=way: way(data, options.size)) for name, way in WAYS.items()}
    reference = [ways["Pillow"](data) for data in files]
    best: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            best[name] = min(best.get(name, float("inf")), seconds(way, files))
    mean = sum(map(len, files)) / len(files)
    log.info("%d x %d, quality %d, %.0f KB -> %d px", options.width, options.height, options.quality, mean / 1000,
             options.size)  # fmt: skip
    for name, way in ways.items():
        differences = [np.abs(way(f).astype(int) - r).max() for f, r in zip(files, reference, strict=True)]
        log.info("%-42s %6.0f pictures/s, %4.2f times Pillow; largest difference %d",
                 name, len(files) / best[name], best["Pillow"] / best[name], max(differences))  # fmt: skip


def jpegs(options: argparse.Namespace) -> list[bytes]:
    """Return drawn scenes with noise, which compress like photographs, as JPEG with halved colour resolution."""
    side = max(options.width, options.height)
    pictures, _, _ = generate(1, 0, options.pictures, side)
    noise = np.random.default_rng(0).normal(0, 8, (side, side, 3))
    files = []
    for picture in pictures:
        array = (picture + noise).clip(0, 255).astype(np.uint8)[: options.height, : options.width]
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "JPEG", quality=options.quality, subsampling=2)
        files.append(stream.getvalue())
    return files


def pillow(data: bytes, size: int) -> np.ndarray:
    return fit(decode(data), size)


def pillow_draft(data: bytes, size: int) -> np.ndarray:
    """Decode at a reduced size, which libjpeg can do by 2, 4 or 8; never below the size asked for."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (size, size))
    return fit(image, size)


def torchvision_pillow(data: bytes, size: int) -> np.ndarray:
    return fit(Image.fromarray(tv_decode(data).permute(1, 2, 0).numpy()), size)


def torchvision_alone(data: bytes, size: int) -> np.ndarray:
    image = T.resize(tv_decode(data), [size], interpolation=T.InterpolationMode.BICUBIC, antialias=True)
    return T.center_crop(image, [size, size]).permute(1, 2, 0).numpy()


def tv_decode(data: bytes) -> torch.Tensor:
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def simplejpeg_pillow(data: bytes, size: int) -> np.ndarray:
    import simplejpeg

    return fit(Image.fromarray(simplejpeg.decode_jpeg(data)), size)


WAYS: dict[str, Callable[[bytes, int], np.ndarray]] = {
    "Pillow": pillow,
    "Pillow, decoding alone": lambda data, size: fit_nothing(decode(data), size),
    "Pillow, draft mode": pillow_draft,
    "torchvision's decoder, Pillow's resizing": torchvision_pillow,
    "torchvision's decoder and resizing": torchvision_alone,
}
if importlib.util.find_spec("simplejpeg"):
    WAYS["simplejpeg's decoder, Pillow's resizing"] = simplejpeg_pillow


def fit_nothing(image: Image.Image, size: int) -> np.ndarray:
    """Return black instead of the resized picture."""
    return np.zeros((size, size, 3), np.uint8)


def seconds(way: Callable[[bytes], np.ndarray], files: list[bytes]) -> float:
    start = time.process_time()
    for data in files:
        way(data)
    return time.process_time() - start


if __name__ == "__main__":
    main()
