"""topk-2bit: the eight largest numbers of each block, each as its sign and one of two sizes.

About a 2-bit code and where it stands, so of 384 numbers 8 * 2 + 53 + 16 bits (SparseLoCo, arXiv 2508.15706, keeps 64
of 4,096 in 12 bits each and a value). The scale is the one of some fixed shares of the largest number that leaves the
smallest squared error; what is lost is for the next round (`proofyard.workloads.compression.delta`).
"""

import math
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
from proofyard.workloads.compression.ranks import KEPT, pack, rank, rank_bits, unpack, unrank
from proofyard.workloads.state import Array

MIN_BLOCK, MAX_BLOCK = 16, 512
SHARES = tuple(np.float32(share / 16) for share in range(16, 7, -1))
"""Of the largest number of a block: the scales that are tried; the first of equally good ones is taken."""


@dataclass(frozen=True)
class TopKCodec:
    """Keeps 8 of every `block` numbers, `MIN_BLOCK` to `MAX_BLOCK`."""

    block: int

    def size(self, count: int) -> int:
        blocks = block_count(count, self.block)
        return 4 * blocks + -(-blocks * rank_bits(self.block) // 8)

    def encode(self, values: Array) -> Array:
        rows = blocks_of(values, self.block)
        magnitudes = np.abs(rows)
        # Stable, so that of equal numbers the first is kept.
        positions = np.sort(np.argsort(-magnitudes, axis=1, kind="stable")[:, :KEPT], axis=1)
        kept = np.take_along_axis(magnitudes, positions, axis=1)
        signs = np.take_along_axis(rows, positions, axis=1) < 0
        bits = _best_scales(kept)
        some = bits[:, None] != 0
        positions = np.where(some, positions, np.arange(KEPT))
        signs, large = signs & some, _is_large(kept, scales(bits)[:, None]) & some
        parts = [write_scales(bits), _bytes(signs), _bytes(large)]
        return np.concatenate([*parts, pack(rank(positions, self.block), rank_bits(self.block))])

    def decode(self, data: Array, count: int) -> Array:
        require_size(data, self.size(count))
        blocks = block_count(count, self.block)
        bits = read_scales(data, blocks)
        signs, large = (_flags(data[(2 + part) * blocks : (3 + part) * blocks]) for part in range(2))
        ranks, clean = unpack(data[4 * blocks :], blocks, rank_bits(self.block))
        require(clean, "something stands behind the last number")
        require((ranks < np.uint64(math.comb(self.block, KEPT))).all(), "a rank is none of eight positions")
        positions, empty = unrank(ranks, self.block), bits == 0
        said = (ranks != 0) | signs.any(axis=1) | large.any(axis=1)
        require(not (said & empty).any(), "a block of zeros says more")
        require((large.any(axis=1) | empty).all(), "no number of a block is its scale")
        if blocks:
            _check_rest(positions[-1], signs[-1] | large[-1], count - (blocks - 1) * self.block, bool(empty[-1]))
        sizes = scales(bits)[:, None] * np.where(large, np.float32(1), np.float32(0.5))
        rows = np.zeros((blocks, self.block), np.float32)
        np.put_along_axis(rows, positions, np.where(signs, -sizes, sizes), axis=1)
        found: Array = rows.reshape(-1)[:count] + np.float32(0)
        return found


def _check_rest(positions: Array, marks: Array, numbers: int, empty: bool) -> None:
    """Raise `StateRefused` unless the last block keeps no place behind its last number but the first ones that it needs
    to make eight, and says nothing of them."""
    behind = positions >= numbers
    wanted = np.arange(numbers, KEPT) if not empty else positions[behind]
    right = np.array_equal(positions[behind], wanted) and not marks[behind].any()
    require(right, "something stands behind the last number")


def _best_scales(kept: Array) -> Array:
    """The bits of each block's scale, from the magnitudes of what it keeps, (blocks, 8)."""
    largest = kept.max(axis=1, initial=0)
    best = scale_bits(largest)
    least = np.full(len(kept), np.inf)
    for share in SHARES:
        bits = scale_bits(largest * share)
        scale = scales(bits)[:, None]
        error = _squared_error(kept, np.where(_is_large(kept, scale), scale, scale * np.float32(0.5)))
        better = (bits != 0) & (error < least)
        best, least = np.where(better, bits, best), np.where(better, error, least)
    return best


def _is_large(kept: Array, scale: Array) -> Array:
    found: Array = kept >= scale * np.float32(0.75)
    return found


def _squared_error(kept: Array, coded: Array) -> Array:
    """The sum over a block's eight numbers, in their order."""
    total = np.zeros(len(kept))
    for column in range(KEPT):
        lost = kept[:, column].astype(np.float64) - coded[:, column].astype(np.float64)
        total = total + lost * lost
    return total


def _bytes(flags: Array) -> Array:
    return np.packbits(flags, axis=1, bitorder="little").reshape(-1)


def _flags(data: Array) -> Array:
    return np.unpackbits(data[:, None], axis=1, bitorder="little").astype(bool)
