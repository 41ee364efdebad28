"""Sets of eight positions as numbers: the combinatorial number system.

The set p_1 < p_2 < ... < p_8 of positions below n has the rank C(p_1, 1) + C(p_2, 2) + ... + C(p_8, 8): each number
below C(n, 8) is the rank of one set. No code for sets that are equally likely is shorter.
"""

import functools
import math

import numpy as np

from proofyard.workloads.state import Array

KEPT = 8


@functools.lru_cache(maxsize=16)
def _choices(n: int) -> Array:
    """C(p, i) for i = 1 .. 8 and p = 0 .. n - 1, (8, n) uint64."""
    table = [[math.comb(p, i) for p in range(n)] for i in range(1, KEPT + 1)]
    return np.array(table, np.uint64)


def rank_bits(n: int) -> int:
    """The length of a rank."""
    return (math.comb(n, KEPT) - 1).bit_length()


def rank(positions: Array, n: int) -> Array:
    """The ranks of sets, (sets, 8) ascending positions to (sets,) uint64."""
    table, total = _choices(n), np.zeros(len(positions), np.uint64)
    for i in range(KEPT):
        total += table[i][positions[:, i]]
    return total


def unrank(ranks: Array, n: int) -> Array:
    """The sets of ranks below C(n, 8), (sets, 8) ascending."""
    table, left = _choices(n), ranks.astype(np.uint64)
    positions = np.empty((len(ranks), KEPT), np.int64)
    for i in reversed(range(KEPT)):
        positions[:, i] = np.searchsorted(table[i], left, side="right") - 1
        left = left - table[i][positions[:, i]]
    return positions


def pack(ranks: Array, bits: int) -> Array:
    """Numbers of `bits` bits one after another, the highest bit first; the last byte is filled up with zeros."""
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint64)
    return np.packbits((ranks[:, None] >> shifts & np.uint64(1)).astype(np.uint8).reshape(-1))


def unpack(data: Array, count: int, bits: int) -> tuple[Array, bool]:
    """The numbers, (count,) uint64, and whether nothing but zeros follows them."""
    flat = np.unpackbits(data)
    numbers = np.zeros(count, np.uint64)
    for column in flat[: count * bits].reshape(count, bits).T:
        numbers = numbers << np.uint64(1) | column.astype(np.uint64)
    return numbers, not flat[count * bits :].any()
