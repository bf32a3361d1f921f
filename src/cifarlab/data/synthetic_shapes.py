"""The shapes of the synthetic pictures, and distances to their outlines."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Pixels must have the same bits on every machine. They come from + - * / sqrt, floor and comparisons, whose
# rounding IEEE 754 fixes, and from PCG64's raw words, whose stream NumPy promises to keep. sin, exp, matmul
# and sum are not used: their last bits differ between processors.
Floats = NDArray[np.floating]  # float32 throughout
Points = tuple[tuple[float, float], ...]


class Disc(NamedTuple):
    """A disc, as a part of a shape.

    Coordinates have y pointing up. A shape has a radius of about 1.

    Attributes:
        x: Horizontal position of the centre.
        y: Vertical position of the centre.
        radius: The disc's radius.
        cut: Whether the disc is removed from the shape instead of added to it.
    """

    x: float
    y: float
    radius: float
    cut: bool = False


class Polygon(NamedTuple):
    """A polygon without self-intersections, as a part of a shape.

    Attributes:
        points: The corners (x, y) in order, in the coordinates of `Disc`.
        cut: Whether the polygon is removed from the shape instead of added to it.
    """

    points: Points
    cut: bool = False


def _ngon(num: int, radius: float, *, inner: float | None = None, x: float = 0.0, y: float = 0.0) -> Polygon:
    """Return a regular polygon with a corner at the top.

    With `inner`, return a star whose corners lie on the radii `radius` and `inner` in turn.
    """
    radii = [radius] * num if inner is None else [radius, inner] * num
    turn = 2 * math.pi / len(radii)
    # Rounded to four digits, so that the result does not depend on the platform's libm.
    return Polygon(
        tuple(
            (round(x + r * math.sin(i * turn), 4), round(y + r * math.cos(i * turn), 4))
            for i, r in enumerate(radii)
        )
    )


def _bar(x: float, y: float, *, cut: bool = False, dx: float = 0.0, dy: float = 0.0) -> Polygon:
    """Return an upright rectangle with half-sides x and y around (dx, dy)."""
    return Polygon(((dx - x, dy - y), (dx + x, dy - y), (dx + x, dy + y), (dx - x, dy + y)), cut)


# Coordinates have y pointing up, and shapes a radius of about one. Parts are added or cut in order. `_paint`
# mirrors shapes at random and rotates them by at most 18 degrees, so a square never looks like a diamond.
SHAPES: dict[str, tuple[Disc | Polygon, ...]] = {
    "disc": (Disc(0, 0, 0.85),),
    "ring": (Disc(0, 0, 0.98), Disc(0, 0, 0.48, cut=True)),
    "triangle": (_ngon(3, 1.15, y=-0.2),),
    "square": (_bar(0.78, 0.78),),
    "diamond": (Polygon(((0, 1.1), (0.72, 0), (0, -1.1), (-0.72, 0))),),
    "hexagon": (_ngon(6, 0.98),),
    "star": (_ngon(5, 1.15, inner=0.5, y=-0.05),),
    "heart": (
        Disc(-0.45, 0.38, 0.52),
        Disc(0.45, 0.38, 0.52),
        Polygon(((-0.85, 0.05), (0, -1), (0.85, 0.05), (0, 0.6))),
    ),
    "moon": (Disc(-0.1, 0, 1.0), Disc(0.42, 0.12, 0.78, cut=True)),
    "plus": (_bar(0.98, 0.34), _bar(0.34, 0.98)),
    "saltire": (
        Polygon(((-0.95, 0.55), (-0.55, 0.95), (0.95, -0.55), (0.55, -0.95))),
        Polygon(((0.95, 0.55), (0.55, 0.95), (-0.95, -0.55), (-0.55, -0.95))),
    ),
    "arrow": (
        Polygon(((-1.05, 0.32), (0, 0.32), (0, 0.85), (1.1, 0), (0, -0.85), (0, -0.32), (-1.05, -0.32))),
    ),
    "house": (
        _bar(0.17, 0.4, dx=0.5, dy=0.5),
        Polygon(((-0.72, -0.95), (0.72, -0.95), (0.72, 0), (1.05, 0), (0, 1), (-1.05, 0), (-0.72, 0))),
    ),
    "drop": (Disc(0, -0.35, 0.66), Polygon(((-0.59, -0.05), (0, 1.15), (0.59, -0.05), (0, -0.95)))),
    "bolt": (
        Polygon(
            ((-0.1, 1.15), (0.75, 1.15), (0.25, 0.3), (0.8, 0.3), (-0.45, -1.2), (-0.1, -0.1), (-0.7, -0.1))
        ),
    ),
    "fish": (
        Polygon(
            (
                (-0.6, 0),
                (-0.25, 0.4),
                (0.2, 0.6),
                (0.65, 0.5),
                (0.95, 0.25),
                (1.1, 0),
                (0.95, -0.25),
                (0.65, -0.5),
                (0.2, -0.6),
                (-0.25, -0.4),
            )
        ),
        Polygon(((-0.35, 0), (-1.1, 0.65), (-0.95, 0), (-1.1, -0.65))),
    ),
    "tree": (
        Polygon(
            (
                (0, 1.2),
                (0.7, 0.3),
                (0.35, 0.3),
                (0.95, -0.6),
                (0.22, -0.6),
                (0.22, -1.15),
                (-0.22, -1.15),
                (-0.22, -0.6),
                (-0.95, -0.6),
                (-0.35, 0.3),
                (-0.7, 0.3),
            )
        ),
    ),
    "mushroom": (Disc(0, 0.05, 0.98), _bar(1.2, 0.6, dy=-0.65, cut=True), _bar(0.3, 0.5, dy=-0.5)),
    "flower": (Disc(0, 0, 0.4), *(Disc(x, y, 0.42) for x, y in _ngon(5, 0.62).points)),
    "crown": (
        Polygon(((-0.95, -0.75), (0.95, -0.75), (1.05, 0.8), (0.45, 0), (0, 0.95), (-0.45, 0), (-1.05, 0.8))),
    ),
}


def shape_distance(shape: str, x: Floats, y: Floats) -> Floats:
    """Return the signed distance of points to a shape's outline, negative inside.

    It is exact only near the outline.
    """
    distance = np.full_like(x, np.inf)
    for part in SHAPES[shape]:
        if isinstance(part, Disc):
            own = np.sqrt(np.square(x - part.x) + np.square(y - part.y)) - part.radius
        else:
            own = _polygon_distance(part.points, x, y)
        distance = np.maximum(distance, -own) if part.cut else np.minimum(distance, own)
    return distance


def segment_distance(x: Floats, y: Floats, edge_x: Floats | float, edge_y: Floats | float) -> Floats:
    """Return the distance to the segment from the origin to (edge_x, edge_y)."""
    length = edge_x * edge_x + edge_y * edge_y + 1e-6
    along = np.clip((x * edge_x + y * edge_y) / length, 0, 1)
    return np.sqrt(np.square(x - along * edge_x) + np.square(y - along * edge_y))


def _polygon_distance(points: Points, x: Floats, y: Floats) -> Floats:
    nearest = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        edge_x, edge_y = x1 - x0, y1 - y0
        from_x, from_y = x - x0, y - y0
        nearest = np.minimum(nearest, segment_distance(from_x, from_y, edge_x, edge_y))
        if edge_y:  # a ray to the right crosses this edge: odd crossings are inside
            inside ^= ((y >= y0) != (y >= y1)) & (from_x < from_y * (edge_x / edge_y))
    return np.where(inside, -nearest, nearest)
