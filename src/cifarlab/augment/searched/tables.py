"""The operations of the policies in `searched`, as tables from which a policy draws rows.

A row is one operation at one magnitude and sign: the number of its kernel in `kernels`, then the parameters
of that kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifarlab.augment import enhance, tones, warps
from cifarlab.augment.geometry import Interpolation, Warp
from cifarlab.augment.kernels import Kernel, Lowered, change_

# A row of a table holds the number of the kernel (0: none) and the parameters of that kernel, padded with
# zeros.
COLUMNS = 7


@dataclass(frozen=True)
class Operation:
    """One operation of a policy.

    Attributes:
        kernel: Position of its kernel in the list that `kernels` returns, counted from 1. 0: the operation
            changes nothing.
        parameters: Function of (magnitude, height, width) that returns the kernel's parameters. The magnitude
            is a tensor (1,).
        signed: Whether the sign of the magnitude is random.
    """

    kernel: int
    parameters: Callable[[Tensor, int, int], Tensor]
    signed: bool = False


def _about_one(factors: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int, int], Tensor]:
    return lambda magnitude, height, width: factors(1 + magnitude)


def _as_given(magnitude: Tensor, height: int, width: int) -> Tensor:
    return magnitude


# The numbers are positions in `kernels`, from 1.
_WARP, _BLEND, _SHARPEN, _CUT_LEVELS, _INVERT_ABOVE, _STRETCH, _EQUALIZE = range(1, 8)
OPERATIONS = {
    "identity": Operation(0, _as_given),
    "shear_x": Operation(_WARP, warps.shear_x_matrix, signed=True),
    "shear_y": Operation(_WARP, warps.shear_y_matrix, signed=True),
    "translate_x": Operation(_WARP, warps.translate_x_matrix, signed=True),
    "translate_y": Operation(_WARP, warps.translate_y_matrix, signed=True),
    "rotate": Operation(_WARP, warps.rotate_matrix, signed=True),
    "brightness": Operation(_BLEND, _about_one(enhance.brightness_factors), signed=True),
    "color": Operation(_BLEND, _about_one(enhance.color_factors), signed=True),
    "contrast": Operation(_BLEND, _about_one(enhance.contrast_factors), signed=True),
    "sharpness": Operation(_SHARPEN, _about_one(lambda factor: factor), signed=True),
    "posterize": Operation(_CUT_LEVELS, lambda bits, height, width: torch.exp2(bits)),
    "solarize": Operation(_INVERT_ABOVE, _as_given),
    "auto_contrast": Operation(_STRETCH, _as_given),
    "equalize": Operation(_EQUALIZE, _as_given),
    "invert": Operation(_INVERT_ABOVE, lambda magnitude, height, width: torch.zeros_like(magnitude)),
}


@dataclass(frozen=True)
class Space:
    """The range of magnitudes of a policy.

    Attributes:
        shear: Largest shear, as the tangent of the angle.
        shift: Function that returns the largest shift for a side of the picture, both in pixels.
        degrees: Largest angle of a rotation.
        strength: Largest distance from 1 of the factors of brightness, color, contrast and sharpness.
        bits: Numbers of bits that `posterize` keeps at the lowest and at the largest magnitude.
    """

    shear: float
    shift: Callable[[int], float]
    degrees: float
    strength: float
    bits: tuple[int, int]

    def magnitudes(self, name: str, bins: int, height: int, width: int) -> Tensor:
        """Return the magnitudes of an operation, the weakest change first.

        They are `bins` values, (bins,) float32, and equal those in torchvision 0.29. All are 0 if the
        operation has no magnitude.
        """
        if name == "posterize":
            most, fewest = self.bits
            return (most - torch.arange(bins, device="cpu") / ((bins - 1) / (most - fewest))).round()
        bounds = {
            "shear_x": (0.0, self.shear),
            "shear_y": (0.0, self.shear),
            "translate_x": (0.0, self.shift(width)),
            "translate_y": (0.0, self.shift(height)),
            "rotate": (0.0, self.degrees),
            "solarize": (1.0, 0.0),
        }
        strengths = dict.fromkeys(("brightness", "color", "contrast", "sharpness"), (0.0, self.strength))
        # torch's own `linspace`, as in torchvision: shifts are truncated to whole pixels, so another rounding
        # could shift by one pixel more or less.
        return torch.linspace(*{**bounds, **strengths}.get(name, (0.0, 0.0)), bins, device="cpu")


NARROW = Space(shear=0.3, shift=lambda size: 150.0 / 331.0 * size, degrees=30.0, strength=0.9, bits=(8, 4))
WIDE = Space(shear=0.99, shift=lambda size: 32.0, degrees=135.0, strength=0.99, bits=(8, 2))
MIXED = Space(shear=0.3, shift=lambda size: size / 3.0, degrees=30.0, strength=0.9, bits=(4, 0))


def row(name: str, magnitude: float, negative: bool, height: int, width: int) -> Tensor:
    """Return the table row of one operation, (COLUMNS,) float32.

    `magnitude` is one of `Space.magnitudes`. `negative` has an effect only if the operation is signed.
    """
    operation = OPERATIONS[name]
    # In float64, as in torchvision: each number of the table is then the nearest float32, on every device.
    value = torch.tensor([magnitude], dtype=torch.float64, device="cpu")
    parameters = operation.parameters(-value if negative and operation.signed else value, height, width)
    filled = torch.zeros(COLUMNS, dtype=torch.float64, device="cpu")
    filled[0] = operation.kernel
    filled[1 : 1 + parameters.numel()] = parameters.flatten()
    return filled.to(torch.float32)


def rows(space: Space, names: Sequence[str], bins: Sequence[int], of: int, height: int, width: int) -> Tensor:
    """Return the rows of several operations at several magnitudes.

    Each operation at each magnitude has two rows: with the magnitude as it is, and with the negative
    magnitude. The two rows are equal if the operation is not `signed`.

    Args:
        space: The range of magnitudes.
        names: Names of the operations.
        bins: Which magnitudes to use: indices from 0, the weakest, to `of` - 1.
        of: Number of magnitudes into which the range is divided.
        height: Height of the pictures in pixels.
        width: Width of the pictures in pixels.

    Returns:
        (operations x bins x 2, COLUMNS) float32.
    """
    found = []
    for name in names:
        magnitudes = space.magnitudes(name, of, height, width).tolist()
        found += [row(name, magnitudes[i], sign, height, width) for i in bins for sign in (False, True)]
    return torch.stack(found)


def kernels(interpolation: Interpolation, fill: float) -> list[tuple[Kernel, tuple[int, ...] | None]]:
    """Return each kernel with the shape of its parameter for one sample.

    A shape of None means that the kernel has no parameter. Tables number the kernels from 1.
    """
    return [
        (Warp("constant", fill, interpolation), (2, 3)),
        (enhance.blend_each, (3,)),
        (enhance.sharpen, ()),
        (tones.cut_levels, ()),
        (tones.invert_above, ()),
        (tones.stretch, None),
        (tones.equalize_levels, None),
    ]


def run_(images: Tensor, chosen: Tensor, interpolation: Interpolation, fill: float) -> None:
    """Change pictures in place, each by its row of a table.

    `images` is (B, 3, H, W), and `chosen` (B, COLUMNS) holds the drawn row of each picture.
    """
    for number, (kernel, shape) in enumerate(kernels(interpolation, fill), start=1):
        parameters = ()
        if shape is not None:
            values = chosen[:, 1 : 1 + torch.Size(shape).numel()]
            parameters = (values.reshape(-1, *shape),)
        change_(images, chosen[:, 0] == number, Lowered(kernel, parameters))
