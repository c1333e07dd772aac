"""Losses in plain Python, against which tests hold those of the project."""

import math


def clip_loss(images, texts, scale):
    """Return CLIP's loss of features (N, D) and (N, D) in plain Python."""
    total = 0.0
    for rows, columns in ((images, texts), (texts, images)):
        for i, row in enumerate(rows):
            powers = [math.exp(scale * float(row @ column)) for column in columns]
            total -= math.log(powers[i] / sum(powers)) / (2 * len(rows))
    return total
