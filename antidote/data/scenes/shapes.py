"""The outlines of the objects in `scenes`, as signed distances.

Every outline is a function of `x` (right) and `y` (up), float32 arrays of equal shape, in the object's own frame; the
object covers about [-1, 1] in its longer direction. The function returns the distance to the outline in the same unit,
negative inside. Only +, -, *, /, sqrt, min and max are used: their results are equal to the last bit on every machine,
so the pictures are equal too. Distances of a union are exact outside and near the outline, as far as drawing needs.
"""

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Outline = Callable[[Array, Array], Array]


def circle(x: Array, y: Array, cx: float, cy: float, radius: float) -> Array:
    return np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def box(x: Array, y: Array, cx: float, cy: float, half_width: float, half_height: float, corner: float = 0) -> Array:
    dx, dy = np.abs(x - cx) - (half_width - corner), np.abs(y - cy) - (half_height - corner)
    outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
    return outside + np.minimum(np.maximum(dx, dy), 0) - corner


def bar(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], radius: float) -> Array:
    """Return the distance to a line segment with round ends."""
    (ax, ay), (bx, by) = start, end
    length = (bx - ax) ** 2 + (by - ay) ** 2
    along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
    return np.sqrt((x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2) - radius


def polygon(x: Array, y: Array, corners: Sequence[tuple[float, float]]) -> Array:
    """Return the distance to a closed polygon, convex or not; the sign follows from the crossings of a ray."""
    squared = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (wx - along * ex) ** 2 + (wy - along * ey) ** 2)
        if ey:
            inside ^= ((ay > y) != (by > y)) & (wx < wy * (ex / ey))
    return np.where(inside, -1, 1).astype(x.dtype) * np.sqrt(squared)


def union(*parts: Array) -> Array:
    return np.minimum.reduce(parts)


def without(whole: Array, *holes: Array) -> Array:
    return np.maximum.reduce([whole, *(-hole for hole in holes)])


def ball(x, y):
    return circle(x, y, 0, 0, 0.92)


def banana(x, y):
    body = np.maximum(circle(x, y, 0, 0.3, 1.0), -circle(x, y, 0, 1.0, 1.05))
    return union(body, bar(x, y, (0.84, 0.32), (0.93, 0.6), 0.1))


def boat(x, y):
    hull = polygon(x, y, [(-1, -0.35), (1, -0.35), (0.6, -0.9), (-0.6, -0.9)])
    sails = union(
        polygon(x, y, [(0.1, 1), (0.1, -0.15), (0.85, -0.15)]),
        polygon(x, y, [(-0.1, 0.8), (-0.1, -0.15), (-0.65, -0.15)]),
    )
    return union(hull, sails, box(x, y, 0, 0.1, 0.06, 0.8))


def bone(x, y):
    knobs = [circle(x, y, sx * 0.68, sy * 0.27, 0.31) for sx in (-1, 1) for sy in (-1, 1)]
    return union(bar(x, y, (-0.6, 0), (0.6, 0), 0.19), *knobs)


def bottle(x, y):
    body = box(x, y, 0, -0.4, 0.44, 0.6, 0.12)
    shoulders = polygon(x, y, [(-0.44, 0.08), (-0.16, 0.45), (0.16, 0.45), (0.44, 0.08)])
    return union(body, shoulders, box(x, y, 0, 0.6, 0.16, 0.36), box(x, y, 0, 0.92, 0.24, 0.1))


def brick(x, y):
    return box(x, y, 0, 0, 1, 0.48, 0.04)


def butterfly(x, y):
    wings = [union(circle(x, y, side * 0.55, 0.4, 0.45), circle(x, y, side * 0.45, -0.45, 0.36)) for side in (-1, 1)]
    roots = polygon(x, y, [(-0.5, 0.2), (0.5, 0.2), (0.5, -0.25), (-0.5, -0.25)])
    nicks = [polygon(x, y, [(side * 1.05, 0.12), (side * 1.05, -0.22), (side * 0.3, -0.05)]) for side in (-1, 1)]
    feelers = [bar(x, y, (0, 0.5), (side * 0.25, 0.95), 0.05) for side in (-1, 1)]
    return union(without(union(*wings, roots), *nicks), bar(x, y, (0, 0.5), (0, -0.75), 0.1), *feelers)


def cactus(x, y):
    arms = [
        bar(x, y, (0, -0.3), (-0.62, -0.3), 0.15),
        bar(x, y, (-0.62, -0.3), (-0.62, 0.3), 0.15),
        bar(x, y, (0, 0.0), (0.62, 0.0), 0.15),
        bar(x, y, (0.62, 0.0), (0.62, 0.55), 0.15),
    ]
    return union(bar(x, y, (0, -0.9), (0, 0.75), 0.23), *arms)


def cloud(x, y):
    puffs = [circle(x, y, -0.52, -0.1, 0.4), circle(x, y, 0.0, 0.16, 0.5), circle(x, y, 0.55, -0.12, 0.38)]
    return union(*puffs, box(x, y, 0, -0.3, 0.85, 0.2, 0.19))


def cross(x, y):
    return union(box(x, y, 0, 0, 0.27, 0.95), box(x, y, 0, 0.0, 0.95, 0.27))


def crown(x, y):
    spikes = [(-0.85, -0.6), (-0.95, 0.55), (-0.45, 0.05), (0, 0.75), (0.45, 0.05), (0.95, 0.55), (0.85, -0.6)]
    return union(polygon(x, y, spikes), *(circle(x, y, px, py, 0.11) for px, py in spikes[1:6:2]))


def fish(x, y):
    body = np.maximum(circle(x, y, 0.2, 0.55, 0.95), circle(x, y, 0.2, -0.55, 0.95))
    tail = polygon(x, y, [(-0.35, 0), (-1, 0.5), (-0.82, 0), (-1, -0.5)])
    return without(union(body, tail), circle(x, y, 0.62, 0.08, 0.09))


def flower(x, y):
    petals = [(0, 0.6), (0.571, 0.185), (0.353, -0.485), (-0.353, -0.485), (-0.571, 0.185)]
    return without(
        union(*(circle(x, y, px, py, 0.37) for px, py in petals), circle(x, y, 0, 0, 0.4)), circle(x, y, 0, 0, 0.22)
    )


def hammer(x, y):
    claw = polygon(x, y, [(-0.3, 0.86), (-0.3, 0.5), (-0.85, 0.32)])
    return union(box(x, y, 0.1, 0.68, 0.5, 0.24, 0.04), claw, box(x, y, 0.05, -0.25, 0.12, 0.75, 0.04))


def heart(x, y):
    point = polygon(x, y, [(0, 0.36), (-0.79, 0.03), (0, -0.92), (0.79, 0.03)])
    return union(circle(x, y, -0.44, 0.36, 0.48), circle(x, y, 0.44, 0.36, 0.48), point)


def house(x, y):
    walls = box(x, y, 0, -0.3, 0.62, 0.6)
    roof = polygon(x, y, [(-0.95, 0.08), (0, 0.92), (0.95, 0.08)])
    return without(union(walls, roof, box(x, y, 0.52, 0.6, 0.12, 0.3)), box(x, y, 0, -0.6, 0.17, 0.32))


def key(x, y):
    bow = without(circle(x, y, -0.58, 0, 0.42), circle(x, y, -0.58, 0, 0.19))
    teeth = [box(x, y, 0.85, -0.2, 0.09, 0.24), box(x, y, 0.52, -0.17, 0.09, 0.2)]
    return union(bow, box(x, y, 0.35, 0, 0.62, 0.11), *teeth)


def kite(x, y):
    sail = polygon(x, y, [(0, 1), (0.6, 0.4), (0, -0.45), (-0.6, 0.4)])
    tail = [bar(x, y, (0, -0.45), (0.2, -0.7), 0.06), bar(x, y, (0.2, -0.7), (-0.05, -0.98), 0.06)]
    return union(without(sail, box(x, y, 0, 0.4, 0.4, 0.035), box(x, y, 0, 0.35, 0.035, 0.45)), *tail)


def ladder(x, y):
    rails = [box(x, y, side * 0.42, 0, 0.1, 0.98) for side in (-1, 1)]
    return union(*rails, *(box(x, y, 0, height, 0.4, 0.09) for height in (-0.66, -0.22, 0.22, 0.66)))


def mug(x, y):
    handle = without(circle(x, y, 0.42, -0.02, 0.5), circle(x, y, 0.42, -0.02, 0.28))
    return union(box(x, y, -0.22, 0, 0.6, 0.78, 0.1), np.maximum(handle, 0.3 - x))


def mushroom(x, y):
    cap = np.maximum(circle(x, y, 0, 0.0, 0.92), -y)
    return union(cap, box(x, y, 0, -0.42, 0.26, 0.5, 0.1))


def ring(x, y):
    return without(circle(x, y, 0, 0, 0.92), circle(x, y, 0, 0, 0.55))


def star(x, y):
    outer = [(0, 1), (0.951, 0.309), (0.588, -0.809), (-0.588, -0.809), (-0.951, 0.309)]
    inner = [(0.247, 0.34), (0.4, -0.13), (0, -0.42), (-0.4, -0.13), (-0.247, 0.34)]
    return polygon(x, y, [corner for pair in zip(outer, inner, strict=True) for corner in pair])


def tree(x, y):
    layers = [
        polygon(x, y, [(0, 1), (-0.45, 0.4), (0.45, 0.4)]),
        polygon(x, y, [(0, 0.7), (-0.62, -0.1), (0.62, -0.1)]),
        polygon(x, y, [(0, 0.3), (-0.8, -0.65), (0.8, -0.65)]),
    ]
    return union(*layers, box(x, y, 0, -0.8, 0.14, 0.2))


OUTLINES: dict[str, Outline] = {
    outline.__name__: outline
    for outline in (
        ball, banana, boat, bone, bottle, brick, butterfly, cactus, cloud, cross, crown, fish,
        flower, hammer, heart, house, key, kite, ladder, mug, mushroom, ring, star, tree,
    )
}  # fmt: skip
