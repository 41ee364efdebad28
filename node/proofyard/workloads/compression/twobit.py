"""two-bit: each number as its sign and one of two sizes, L or a third of it.

Four values in about the places that lose least of numbers of a normal distribution (J. Max, Quantizing for Minimum
Distortion, 1960: 0.45 and 1.51 deviations, which is 0.57 and 1.89 mean magnitudes).
"""

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
from proofyard.workloads.exact_sums import tree_sum
from proofyard.workloads.state import Array

BLOCK = 64
LARGE = np.float32(1.9)
"""L in mean magnitudes, but no more than the largest one, so that some number of a block always has size L."""


@dataclass(frozen=True)
class TwoBitCodec:
    """Signs of all blocks, then sizes, a bit for each number."""

    def size(self, count: int) -> int:
        return block_count(count, BLOCK) * (2 + BLOCK // 4)

    def encode(self, values: Array) -> Array:
        rows = blocks_of(values, BLOCK)
        sizes = np.abs(rows)
        mean = (tree_sum(sizes) / BLOCK).astype(np.float32)
        with np.errstate(over="ignore"):
            bits = scale_bits(np.minimum(mean * LARGE, sizes.max(axis=1, initial=0)))
        there = bits[:, None] != 0
        signs, large = (rows < 0) & there, (sizes > _border(bits)) & there
        return np.concatenate([write_scales(bits), _packed(signs), _packed(large)])

    def decode(self, data: Array, count: int) -> Array:
        require_size(data, self.size(count))
        blocks = block_count(count, BLOCK)
        bits, body = read_scales(data, blocks), data[2 * blocks :]
        signs, large = np.unpackbits(body, bitorder="little").reshape(2, blocks, BLOCK).astype(bool)
        require(not (signs.any(axis=1) & (bits == 0)).any(), "a block of zeros says more")
        require((large.any(axis=1) == (bits != 0)).all(), "no number of a block is its scale")
        require(not (signs | large).reshape(-1)[count:].any(), "something stands behind the last number")
        scale = scales(bits)[:, None]
        rows = np.where(large, scale, scale / np.float32(3))
        found: Array = np.where(signs, -rows, rows).reshape(-1)[:count] + np.float32(0)
        return found


def _border(bits: Array) -> Array:
    """Between the two sizes, (blocks, 1) float32."""
    border: Array = scales(bits)[:, None] * np.float32(2) / np.float32(3)
    return border


def _packed(marks: Array) -> Array:
    return np.packbits(marks, axis=1, bitorder="little").reshape(-1)
