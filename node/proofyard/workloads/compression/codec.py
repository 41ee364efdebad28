"""What an encoding is, and what all of them do: cut a vector into blocks, and find a scale for each."""

from typing import Protocol

import numpy as np

from proofyard.workloads.errors import StateRefused
from proofyard.workloads.state import Array

LEAST, MOST = 0x1000, 0x7B80
"""Scales as upper halves of binary32: 2^-95 to 2^120, so that 127 times one is finite and a 127th no subnormal."""


class Codec(Protocol):
    """An encoding of vectors of `count` numbers into `size(count)` bytes."""

    def size(self, count: int) -> int: ...

    def encode(self, values: Array) -> Array:
        """The bytes, (size,) uint8, of finite numbers, (count,) float32. What is kept of a number is no larger than the
        largest of its block, and neither is what is lost."""
        ...

    def decode(self, data: Array, count: int) -> Array:
        """The numbers, (count,) float32. Raises `StateRefused` for bytes that `encode` never makes."""
        ...


def blocks_of(values: Array, block: int) -> Array:
    """The numbers in blocks, (blocks, block) float32."""
    filled = np.zeros(-(-values.size // block) * block, np.float32)
    filled[: values.size] = values
    return filled.reshape(-1, block)


def block_count(count: int, block: int) -> int:
    return -(-count // block)


def scale_bits(largest: Array) -> Array:
    """The scales of blocks whose largest magnitudes these are, rounded down; 0 where a scale would be too small."""
    bits = np.ascontiguousarray(largest, np.float32).view(np.uint32) >> 16
    return np.where(bits < LEAST, 0, np.minimum(bits, MOST)).astype(np.uint16)


def scales(bits: Array) -> Array:
    """The scales that 16 bits stand for, float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_scales(bits: Array) -> Array:
    return bits.astype("<u2").view(np.uint8)


def read_scales(data: Array, blocks: int) -> Array:
    """The bits of the scales in front of an encoding. Raises `StateRefused` for a scale that no block has."""
    bits = np.frombuffer(data[: 2 * blocks].tobytes(), "<u2").astype(np.uint16)
    if ((bits != 0) & ((bits < LEAST) | (bits > MOST))).any():
        raise StateRefused("a block has a scale that is none")
    return bits


def require_size(data: Array, size: int) -> None:
    """Raise `StateRefused` unless there are so many bytes."""
    if data.size != size:
        raise StateRefused(f"an encoding has {data.size} bytes, expected {size}")


def require(holds: object, what: str) -> None:
    """Raise `StateRefused` for bytes that are the encoding of nothing."""
    if not holds:
        raise StateRefused(f"no encoding: {what}")
