"""Possible contents of a scene: classes, colours (RGB), backgrounds (RGB), sides of the second object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from antidote.data.scenes.shapes import OUTLINES

CLASSES = list(OUTLINES)
COLOURS = {
    "red": (215, 40, 40),
    "yellow": (240, 210, 40),
    "green": (50, 175, 60),
    "blue": (50, 90, 225),
    "purple": (150, 60, 190),
    "white": (240, 240, 240),
}
PLACES = {
    "wall": (128, 118, 112),
    "sky": (120, 160, 200),
    "grass": (88, 116, 66),
    "sand": (176, 156, 112),
    "water": (70, 110, 130),
    "floor": (134, 108, 88),
}
SIDES = ("left", "right", "above", "below")


@dataclass(frozen=True)
class Scene:
    """Contents of N pictures: arrays of length N; positions and scales in half picture widths, `y` up."""

    label: np.ndarray
    colour: np.ndarray
    place: np.ndarray
    x: np.ndarray
    y: np.ndarray
    scale: np.ndarray
    paired: np.ndarray  # bool: whether a tiny second object is drawn
    side: np.ndarray  # position of the second object: index into SIDES
    second_label: np.ndarray
    second_colour: np.ndarray
