"""int8 and int4: each number a whole multiple of its block's scale over the number of levels."""

from dataclasses import dataclass

import numpy as np

from proofyard.workloads.compression.codec import (
    block_count,
    blocks_of,
    read_scales,
    require,
    require_size,
    scale_bits,
    scales,
    write_scales,
)
from proofyard.workloads.state import Array


@dataclass(frozen=True)
class LinearCodec:
    """`levels` above and below zero, 127 in a byte or 7 in half of one; `block` is even."""

    levels: int
    block: int

    @property
    def _bits(self) -> int:
        return 8 if self.levels > 7 else 4

    def size(self, count: int) -> int:
        return block_count(count, self.block) * (2 + self.block * self._bits // 8)

    def first_code(self, size: int) -> int:
        """Where the codes begin in an encoding of so many bytes."""
        return 2 * (size // (2 + self.block * self._bits // 8))

    def encode(self, values: Array) -> Array:
        rows = blocks_of(values, self.block)
        bits = scale_bits(np.abs(rows).max(axis=1, initial=0))
        scale = np.where(bits == 0, np.float32(1), scales(bits))[:, None]
        # At most 2 * levels: a scale is the largest magnitude, rounded down to 8 binary digits (or the largest scale).
        whole = np.rint(rows / scale * np.float32(self.levels))
        codes = np.where(bits[:, None] == 0, 0, np.clip(whole, -self.levels, self.levels)).astype(np.int8).reshape(-1)
        if self._bits == 4:
            half = (codes + 8).astype(np.uint8)
            return np.concatenate([write_scales(bits), half[::2] | half[1::2] << 4])
        return np.concatenate([write_scales(bits), codes.view(np.uint8)])

    def decode(self, data: Array, count: int) -> Array:
        require_size(data, self.size(count))
        blocks = block_count(count, self.block)
        bits, body = read_scales(data, blocks), data[2 * blocks :]
        codes = body.view(np.int8) if self._bits == 8 else _halves(body)
        rows = codes.reshape(blocks, self.block)
        largest = np.abs(rows.astype(np.int16)).max(axis=1, initial=0)
        require((largest == np.where(bits == 0, 0, self.levels)).all(), "no number of a block is its scale")
        require(not codes[count:].any(), "something stands behind the last number")
        numbers = rows.astype(np.float32) * scales(bits)[:, None] / np.float32(self.levels)
        found: Array = numbers.reshape(-1)[:count] + np.float32(0)
        return found


def _halves(body: Array) -> Array:
    """The codes in half bytes, the first in the low bits; what stands for -8 is larger than any level."""
    codes = np.empty(2 * body.size, np.int8)
    codes[::2], codes[1::2] = body & 15, body >> 4
    return codes - np.int8(8)
