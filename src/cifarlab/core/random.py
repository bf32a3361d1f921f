"""Counter-based random numbers, without hidden state.

A number is a hash of the seed, the epoch, the sample's index, the label of the augmentation or mixer that
draws it (and the labels of the parts that contain this one), and the count of numbers drawn before. The
label of an augmentation or mixer is its key in the recipe.
"""

from __future__ import annotations

import copy
import hashlib
import math

import numpy as np
import torch
from torch import Tensor

# Constants of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) as
# signed 64-bit integers: torch multiplies int64 with wrap-around on every device.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift int64 right logically; torch's own shift is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix_bits(x: Tensor) -> Tensor:
    """Apply splitmix64's finaliser to each int64. Every input bit affects every output bit."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _mix_int(x: int) -> int:
    """Apply `mix_bits` to a Python integer; return a signed 64-bit value."""
    mask = (1 << 64) - 1
    x &= mask
    x = ((x ^ (x >> 30)) * _MIX_1) & mask
    x = ((x ^ (x >> 27)) * _MIX_2) & mask
    x ^= x >> 31
    return x - (1 << 64) if x >> 63 else x


def label_key(label: str) -> int:
    """Return a signed 64-bit hash of a text.

    The text is usually the label of an augmentation or mixer.
    """
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "little", signed=True)


def hash_ints(*values: int) -> int:
    """Return a signed 64-bit hash of integers. Their order matters."""
    key = 0
    for value in values:
        key = _mix_int((key + _GAMMA) ^ _mix_int(value + _GAMMA))
    return key


def hash_each(key: int, values: Tensor) -> Tensor:
    """Hash each of `values` (int64, any shape) with `key`. Return int64 of the same shape."""
    return mix_bits(mix_bits(values * _GAMMA + key))


def permutation(seed: int, epoch: int, n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return a random order of n samples for an epoch. (n,) int64, equal on every device."""
    key = hash_ints(seed, epoch, label_key("order"))
    return torch.argsort(hash_each(key, torch.arange(n, device=device)), stable=True)


class Draws:
    """Random numbers of an augmentation or mixer, in a separate stream for each of B samples.

    Each of the methods `bits`, `uniform`, ... draws the next numbers of every stream. So the numbers depend
    on the order of calls within an augmentation or mixer. They do not depend on the other samples of the
    batch, on the device, or on the numbers that other augmentations and mixers draw.

    Args:
        seed: Seed of the run.
        epoch: Epoch that determines the numbers, counted from 0. If the augmented pictures of an earlier
            epoch are shown again (`data.views`), it is that earlier epoch.
        ids: (B,) int64, the index of each sample in its part of the data set (train, val or test).
    """

    def __init__(self, seed: int, epoch: int, ids: Tensor):
        self.epoch = epoch
        self._seed, self._ids = seed, ids.to(torch.int64)
        self._path: tuple[str, ...] = ()
        self._keys = mix_bits(self._ids * _GAMMA + hash_ints(seed, epoch, label_key("view")))
        self._count = 0

    def at(self, label: str) -> Draws:
        """Return new streams of random numbers, which belong to `label`.

        `label` is usually the key of an augmentation or mixer in the recipe. An augmentation that applies
        others, such as a random choice, calls this method once for each of the others.
        """
        child = copy.copy(self)
        child._path = (*self._path, label)
        child._keys, child._count = mix_bits(self._keys ^ label_key(label)), 0
        return child

    def of_epoch(self, epoch: int) -> Draws:
        """Return the streams of random numbers for another epoch, from their start.

        So an augmentation that depends on an earlier epoch can draw the numbers of that epoch again. The
        streams belong to the same augmentation or mixer.
        """
        stream = Draws(self._seed, epoch, self._ids)
        for label in self._path:
            stream = stream.at(label)
        return stream

    def take(self, rows: Tensor) -> Draws:
        """Return the streams of the samples at `rows` (n,), in this order."""
        child = copy.copy(self)
        child._ids, child._keys = self._ids[rows], self._keys[rows]
        return child

    @property
    def device(self) -> torch.device:
        """The device of the numbers."""
        return self._keys.device

    def __len__(self) -> int:
        return len(self._keys)

    def bits(self, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) int64, uniform over all 64-bit values."""
        size = math.prod(shape)
        # The factor is odd and differs from the _GAMMA of the ids, so that n and a sample's index are not
        # interchangeable.
        counters = (torch.arange(size, device=self.device) + self._count) * _MIX_1
        self._count += size
        return mix_bits(mix_bits(self._keys[:, None] + counters)).view(-1, *shape)

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) float32, uniform in [low, high).

        They have 24 random bits, and are equal on every device.
        """
        values = _shift(self.bits(shape), 40).to(torch.float32) * (2.0**-24 * (high - low)) + low
        if low == high:
            return values
        # Rounding of the sum may give `high` or more.
        last = float(np.nextafter(np.float32(high), np.float32(low)))
        return values.clamp(max=last) if low < high else values.clamp(min=last)

    def integers(self, low: int, high: int, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) int64, uniform from low to high - 1.

        Raises:
            ValueError: `low` is not below `high`.
        """
        if low >= high:
            raise ValueError(f"integers: low={low} must be below high={high}")
        return (_shift(self.bits(shape), 33) * (high - low) >> 31) + low

    def bernoulli(self, p: float, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) bool, true with probability p."""
        return self.uniform(shape=shape) < p

    def normal(self, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw (B, *shape) float32, standard normal, by the Box-Muller transform."""
        radius = (-2.0 * (1.0 - self.uniform(shape=shape)).log()).sqrt()
        return radius * (2.0 * math.pi * self.uniform(shape=shape)).cos()
