"""`scenes`: small generated pictures with captions; CLIP has to learn the object that the caption names.

Every picture shows one large object of one of 24 classes, in one of six colours that are independent of the class, on
one of six backgrounds; one picture in eight also shows a tiny second object. A picture depends only on (seed, index).
"""

import numpy as np

from antidote.data.scenes import captions
from antidote.data.scenes.draws import Draws
from antidote.data.scenes.shapes import OUTLINES
from antidote.data.scenes.things import CLASSES, COLOURS, PLACES, SIDES, Scene

CHUNK, CHUNK_PIXELS = 256, 2**17  # pictures and pixels per chunk; small enough for the processor's cache


def generate(split_seed: int, start: int, count: int, size: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Generate pictures `start` to `start + count` (exclusive) of a split.

    Args:
        split_seed: seed of the split.
        start: index of the first picture.
        count: number of pictures.
        size: side in pixels.

    Returns:
        images uint8 (count, size, size, 3), captions (count), labels int64 (count) as indices into CLASSES.
    """
    images = np.empty((count, size, size, 3), np.uint8)
    labels, texts = np.empty(count, np.int64), []
    chunk = max(1, min(CHUNK, CHUNK_PIXELS // size**2))
    for first in range(0, count, chunk):
        part = slice(first, min(first + chunk, count))
        draws = Draws(split_seed, np.arange(start + part.start, start + part.stop))
        scene = compose(draws)
        images[part], labels[part] = render(scene, draws, size), scene.label
        texts += captions.write(scene, draws)
    return images, texts, labels


def compose(draws: Draws) -> Scene:
    """Draw the random content of the pictures."""
    label = draws.choice("label", len(CLASSES))
    paired, side = draws.uniform("paired") < 0.125, draws.choice("side", len(SIDES))
    # The main object is shifted away from the edge with the second object.
    away = np.array([(0.27, 0), (-0.27, 0), (0, -0.27), (0, 0.27)])[side] * paired[:, None]
    room = np.where(paired, 0.4, 1)
    return Scene(
        label=label,
        colour=draws.choice("colour", len(COLOURS)),
        place=draws.choice("place", len(PLACES)),
        x=away[:, 0] + draws.uniform("x", -0.14, 0.14) * room,
        y=away[:, 1] + draws.uniform("y", -0.14, 0.14) * room,
        scale=np.where(paired, draws.uniform("scale", 0.55, 0.65), draws.uniform("scale", 0.66, 0.92)),
        paired=paired,
        side=side,
        second_label=(label + 1 + draws.choice("second label", len(CLASSES) - 1)) % len(CLASSES),
        second_colour=draws.choice("second colour", len(COLOURS)),
    )


def render(scene: Scene, draws: Draws, size: int) -> np.ndarray:
    """Render the pictures: uint8 (N, size, size, 3)."""
    ground = _ground(scene, draws, size)
    turn, second_turn = draws.uniform("turn", -0.35, 0.35), draws.uniform("second turn", -0.35, 0.35)
    mirrored = draws.uniform("mirrored") < 0.5
    main = _distance(scene.label, scene.x, scene.y, scene.scale, turn, mirrored, size)
    picture = _paint(ground, main, _colour(scene.colour, draws, "main"), size)
    if scene.paired.any():
        along = draws.uniform("along", -0.45, 0.45)
        edge = np.array([-0.76, 0.76, 0.76, -0.76])[scene.side]
        beside = scene.side < 2
        x, y = np.where(beside, edge, along), np.where(beside, along, edge)
        chosen = np.flatnonzero(scene.paired)
        second = _distance(
            *(values[chosen] for values in (scene.second_label, x, y, np.full(len(x), 0.22), second_turn, ~mirrored)),
            size,
        )
        colours = _colour(scene.second_colour, draws, "second")[chosen]
        picture[chosen] = _paint(picture[chosen], second, colours, size)
    strength = draws.uniform("noise", 0, 0.035).astype(np.float32)[:, None]
    picture += (strength * draws.noise("pixels", size * size * 3)).reshape(picture.shape)
    return (np.clip(picture, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres, float32 in [-1, 1]: x (size,) to the right and y (size, 1) up."""
    centres = ((2 * np.arange(size) + 1 - size) / size).astype(np.float32)
    return centres, -centres[:, None]


def _distance(
    label: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    scale: np.ndarray,
    turn: np.ndarray,
    mirrored: np.ndarray,
    size: int,
) -> np.ndarray:
    """Return the signed distance of every pixel to the outline, in half picture widths: float32 (N, size, size)."""
    # The last bits of sine and cosine differ between machines; rounding removes the difference.
    cosine, sine = np.round(np.cos(turn), 6), np.round(np.sin(turn), 6)
    cosine, sine, cx, cy, scale, flip = (
        value.astype(np.float32)[:, None, None] for value in (cosine, sine, x, y, scale, np.where(mirrored, -1, 1))
    )
    across, up = _grid(size)
    dx, dy = across - cx, up - cy
    own_x, own_y = flip * (cosine * dx + sine * dy) / scale, (cosine * dy - sine * dx) / scale
    distance = np.empty(own_x.shape, np.float32)
    for kind in np.unique(label):
        rows = label == kind
        distance[rows] = OUTLINES[CLASSES[kind]](own_x[rows], own_y[rows])
    return distance * scale


def _paint(picture: np.ndarray, distance: np.ndarray, colour: np.ndarray, size: int) -> np.ndarray:
    """Paint a filled outline with a dark rim on pictures float32 (N, size, size, 3); edges are anti-aliased."""
    pixel, rim = np.float32(2 / size), np.float32(0.06)
    for reach, paint in ((rim, colour * np.float32(0.25)), (np.float32(0), colour)):
        cover = np.clip(np.float32(0.5) - (distance - reach) / pixel, 0, 1)[..., None]
        picture = picture + cover * (paint[:, None, None, :] - picture)
    return picture


def _colour(index: np.ndarray, draws: Draws, name: str) -> np.ndarray:
    """Return the objects' colours with random variation: float32 (N, 3) in [0, 1]."""
    base = np.array(list(COLOURS.values()), np.float32)[index] / np.float32(255)
    spread = np.stack([draws.uniform(f"{name} {channel}", -0.05, 0.05) for channel in "rgb"], axis=1)
    return np.clip(base + spread.astype(np.float32), 0, 1)


def _ground(scene: Scene, draws: Draws, size: int) -> np.ndarray:
    """Return the backgrounds: float32 (N, size, size, 3) in [0, 1]."""
    across, up = _grid(size)
    across = np.broadcast_to(across, (size, size))
    up = np.broadcast_to(up, (size, size))
    base = np.array(list(PLACES.values()), np.float32)[scene.place] / np.float32(255)
    spread = np.stack([draws.uniform(f"ground {channel}", -0.06, 0.06) for channel in "rgb"], axis=1)
    base = (base + spread.astype(np.float32)) * draws.uniform("light", 0.55, 1.2).astype(np.float32)[:, None]
    phase, pitch = (draws.uniform(name, low, high).astype(np.float32) for name, low, high in _TEXTURE)
    light = np.zeros((len(base), size, size), np.float32)
    for index, place in enumerate(PLACES):
        for row in np.flatnonzero(scene.place == index):
            light[row] = _texture(place, across, up, phase[row], pitch[row])
    grain = np.where(np.isin(scene.place, [2, 3]), 0.09, 0).astype(np.float32)  # grass and sand
    if grain.any():
        light += grain[:, None, None] * draws.noise("grain", size * size).reshape(light.shape)
    return np.clip(base[:, None, None, :] + light[..., None], 0, 1)


_TEXTURE = (("phase", 0, 1), ("pitch", 0.3, 0.55))


def _texture(place: str, across: np.ndarray, up: np.ndarray, phase: np.float32, pitch: np.float32) -> np.ndarray:
    """Return the brightness texture of one background, in [-0.12, 0.12]: float32 (size, size)."""
    if place == "sky":
        return np.float32(0.12) * up
    if place == "water":
        return np.float32(0.2) * _wave(up / pitch + np.float32(0.4) * _wave(across / (2 * pitch) + phase) + phase)
    if place == "grass":
        return np.float32(0.16) * _wave(across / (pitch / 2) + phase)
    if place == "floor":
        tiles = np.floor(across / pitch + phase) + np.floor(up / pitch + phase)
        return np.float32(0.14) * (tiles % 2 - np.float32(0.5))
    return np.zeros_like(across)


def _wave(x: np.ndarray) -> np.ndarray:
    """Return a triangle wave of period 1, in [-0.5, 0.5]."""
    return np.float32(2) * np.abs(x - np.floor(x) - np.float32(0.5)) - np.float32(0.5)
