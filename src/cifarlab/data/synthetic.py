"""The built-in synthetic data set: pictures of 100 classes, combinations of shape, texture and colour.

Pictures are equal on every machine, bit for bit.
"""

import numpy as np
from numpy.typing import NDArray

from cifarlab.data.synthetic_shapes import SHAPES, Floats, segment_distance, shape_distance

_TEXTURES = ("plain", "striped", "dotted", "checkered", "rimmed")
_HUES = {"red": 0.0, "yellow": 0.15, "green": 0.36, "blue": 0.6, "purple": 0.8}
# The five classes of a superclass as (colour, texture); each superclass adds its own offset to both. Two
# colours come with two textures each, the third shares its texture with the first: neither colour nor texture
# alone tells the classes apart.
_MEMBERS = ((0, 0), (0, 1), (1, 1), (1, 2), (2, 0))
_LOOKS = tuple(
    (shape, _TEXTURES[(t + 2 * s + s // 5) % 5], tuple(_HUES)[(c + s) % 5])
    for s, shape in enumerate(SHAPES)
    for c, t in _MEMBERS
)

CLASSES: tuple[str, ...] = tuple(f"{colour} {texture} {shape}" for shape, texture, colour in _LOOKS)
SUPERCLASSES: tuple[str, ...] = tuple(SHAPES)
SUPERCLASS_OF: tuple[int, ...] = tuple(SUPERCLASSES.index(shape) for shape, _, _ in _LOOKS)

_SPLITS = {"train": 0, "test": 1}
_NUM_UNIFORMS = 128  # 113 are used; the spare ones allow a further scene element without changing the noise
_CELLS = 3
_NUM_CLUTTER = 4
_MAX_TURN = 0.16  # as the tangent of half the angle
_PIXELS_AT_ONCE = 1 << 17  # per channel: half a megabyte of float32, which fits into the processor's cache


class _Dice:
    """A source of random numbers for n pictures, from a (n, _NUM_UNIFORMS) array.

    Each call returns the next column, scaled to [low, high), as (n, 1, 1).
    """

    def __init__(self, uniforms: Floats) -> None:
        self._columns = iter(uniforms.T[:, :, None, None])

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Floats:
        return low + (high - low) * next(self._columns)


def _rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Convert HSV colours to RGB.

    Hue (wraps at 1), saturation and value are (n, 1, 1) each; the result is (n, 3, 1, 1).
    """
    ramp = hue[:, None] * 6 + np.array([5, 3, 1], np.float32)[:, None, None]
    ramp -= np.floor(ramp / 6) * 6
    return value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(ramp, 4 - ramp), 0, 1))


def _capsule_distance(dice: _Dice, x: Floats, y: Floats, reach: float, thick: tuple[float, float]) -> Floats:
    """Return the signed distance to a random capsule, negative inside.

    `reach` limits the length of the capsule, and `thick` is the range of the radius.
    """
    from_x, from_y = x - dice(-1.1, 1.1), y - dice(-1.1, 1.1)
    edge_x, edge_y = dice(-reach, reach), dice(-reach, reach)
    return segment_distance(from_x, from_y, edge_x, edge_y) - dice(*thick)


def _texture(name: str, dice: _Dice, distance: Floats, x: Floats, y: Floats, blur: Floats) -> Floats:
    """Return the share of a shape's second colour at each pixel.

    A shape has two colours, and the share is in [0, 1]. `blur` is the width of a pixel in the coordinates of
    the shape.
    """
    density, shift_x, shift_y = dice(1.5, 2.1), dice(), dice()
    u, v = x * density + shift_x, y * density + shift_y
    u, v = np.abs(u - np.floor(u) - 0.5), np.abs(v - np.floor(v) - 0.5)
    soft = blur * density
    if name == "striped":
        return np.clip((v - 0.25) / soft + 0.5, 0, 1)
    if name == "dotted":
        return np.clip((0.33 - np.sqrt(u * u + v * v)) / soft + 0.5, 0, 1)
    if name == "checkered":
        u, v = (np.clip((wave - 0.25) / soft + 0.5, 0, 1) for wave in (u, v))
        return u + v - 2 * u * v
    if name == "rimmed":
        return np.clip((distance + 0.24) / blur + 0.5, 0, 1)
    return np.zeros_like(x)


def _background(dice: _Dice, size: int) -> Floats:
    """Return smooth random colour gradients, (n, 3, size, size)."""
    corners = np.stack([_rgb(dice(), dice(0, 0.5), dice(0.15, 0.95)) for _ in range((_CELLS + 1) ** 2)], 1)
    corners = corners.reshape(len(corners), _CELLS + 1, _CELLS + 1, 3).transpose(0, 3, 1, 2)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size * _CELLS
    part = at - np.floor(at)
    cell = at.astype(np.int64)
    rows = corners[:, :, cell] * (1 - part[:, None]) + corners[:, :, cell + 1] * part[:, None]
    return rows[..., cell] * (1 - part) + rows[..., cell + 1] * part


def _blend(canvas: Floats, colour: Floats, cover: Floats) -> None:
    canvas += (colour - canvas) * cover[:, None]


def _paint(label: int, uniforms: Floats, size: int) -> Floats:
    """Paint pictures of one class, without noise.

    `uniforms` (n, _NUM_UNIFORMS) holds the random numbers of each picture. The result is (n, 3, size, size).
    Its values may lie outside [0, 1].
    """
    shape, texture, colour = _LOOKS[label]
    dice = _Dice(uniforms)
    grid = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y, pixel = grid[None, None, :], -grid[None, :, None], 2 / size

    canvas = _background(dice, size)
    for _ in range(_NUM_CLUTTER):
        clutter = _capsule_distance(dice, x, y, 0.5, (0.05, 0.25))
        _blend(canvas, _rgb(dice(), dice(0.2, 1), dice(0.2, 1)), np.clip(0.5 - clutter / pixel, 0, 1))

    # Cosine and sine of the rotation from the tangent of half the angle: no trigonometric function is called.
    half = dice(-_MAX_TURN, _MAX_TURN)
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    scale, stretch, lean = dice(0.46, 0.8), dice(0.85, 1.18), dice(-0.12, 0.12)
    away_x, away_y = (x - dice(-0.38, 0.38)) / scale, (y - dice(-0.38, 0.38)) / scale
    own_y = (away_y * cos - away_x * sin) * stretch
    own_x = (away_x * cos + away_y * sin) / stretch + own_y * lean
    own_x = np.where(dice() < 0.5, own_x, -own_x)
    distance, blur = shape_distance(shape, own_x, own_y), pixel / scale

    first = _rgb(_HUES[colour] + dice(-0.06, 0.06), dice(0.5, 1), dice(0.55, 1))
    second = _rgb(dice(), dice(0, 0.25), np.where(dice() < 0.5, dice(0.05, 0.25), dice(0.85, 1)))
    pattern = _texture(texture, dice, distance, own_x, own_y, blur)
    _blend(canvas, first + (second - first) * pattern[:, None], np.clip(0.5 - distance / blur, 0, 1))

    front = _capsule_distance(dice, x, y, 1.5, (0.0, 0.2))
    _blend(canvas, _rgb(dice(), dice(0, 0.6), dice(0.15, 0.95)), np.clip(0.5 - front / pixel, 0, 1))

    light = dice(0.85, 1.2) + x * dice(-0.25, 0.25) + y * dice(-0.25, 0.25)
    canvas *= light[:, None]
    canvas *= np.stack([dice(0.88, 1.12) for _ in range(3)], 1)
    return canvas


def _noise(words: NDArray[np.uint64]) -> Floats:
    """Make two near-normal numbers of unit variance from each 64-bit word.

    Each number is the sum of the four bytes of one half of the word.
    """
    halves = words.view(np.uint32)
    pairs = (halves & 0x00FF00FF) + ((halves >> 8) & 0x00FF00FF)
    sums = (pairs & 0xFFFF) + (pairs >> 16)
    return (sums.astype(np.float32) - 510) / 147.8


def _photograph(label: int, indices: range, size: int, seed: int, split: int) -> Floats:
    """Draw the pictures `indices`, all of one class, with noise.

    The result is (n, 3, size, size) floats with whole values from 0 to 255.
    """
    num_values = 3 * size * size
    words = np.stack(
        [
            np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(split, i))).random_raw(
                _NUM_UNIFORMS + (num_values + 1) // 2
            )
            for i in indices
        ]
    )
    uniforms = (words[:, :_NUM_UNIFORMS] >> 40).astype(np.float32) * np.float32(2**-24)
    canvas = _paint(label, uniforms, size)
    strength = 0.01 + 0.045 * uniforms[:, -1, None]
    canvas += (strength * _noise(words[:, _NUM_UNIFORMS:])[:, :num_values]).reshape(canvas.shape)
    return np.floor(np.clip(canvas, 0, 1) * 255 + 0.5)


def draw(num: int, *, size: int = 32, seed: int = 0, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Draw the first `num` pictures of a split.

    Picture i shows class i % 100. It depends on nothing but i, `seed`, `split` and `size`. At another size
    the scene is the same and the noise differs.

    Args:
        num: Number of pictures.
        size: Side in pixels, at least 8.
        seed: Another seed draws other pictures.
        split: "train" or "test".

    Returns:
        Images (num, 3, size, size) uint8 and labels (num,) int64.

    Raises:
        ValueError: `split` is unknown, `num` or `seed` is negative, or `size` is below 8.
    """
    if split not in _SPLITS:
        raise ValueError(f"split {split!r} is unknown: use one of {', '.join(_SPLITS)}")
    if num < 0 or seed < 0 or size < 8:
        raise ValueError(f"num={num}, seed={seed}, size={size}: num and seed must be >= 0, size >= 8")
    labels = np.arange(num, dtype=np.int64) % len(CLASSES)
    images = np.empty((num, 3, size, size), np.uint8)
    stack = max(1, _PIXELS_AT_ONCE // (size * size))
    for label in range(min(num, len(CLASSES))):
        indices = range(label, num, len(CLASSES))
        for start in range(0, len(indices), stack):
            chosen = indices[start : start + stack]
            images[list(chosen)] = _photograph(label, chosen, size, seed, _SPLITS[split])
    return images, labels
