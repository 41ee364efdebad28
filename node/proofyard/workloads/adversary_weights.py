"""Cheats that compute with less than they are asked to: weights or activations with fewer bits, or with holes.

They act inside of the exact arithmetic (`exact.tampering`), so they work for every model and workload. Functions here
take and return binary32 arrays of one shape.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from proofyard.workloads.state import Array
from proofyard.workloads.workload import OnProgress, SegmentRunner

Tamper = Callable[[Array], Array]

PRUNED = 0.01
"""The share of weights that `pruned` drops."""


@dataclass(frozen=True)
class Tampering:
    """What is done to a matrix of frozen weights before it is sliced, and to the input of every linear layer."""

    weights: Tamper | None = None
    activations: Tamper | None = None


class Tampered:
    """An honest runner over tampered arithmetic; its model is loaded under the tampering as well."""

    def __init__(self, make: Callable[[], SegmentRunner], tampering: Tampering) -> None:
        self._make = make
        self._tampering = tampering
        self._runner: SegmentRunner | None = None

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        from proofyard.workloads.exact import tampering

        with tampering(weights=self._tampering.weights, activations=self._tampering.activations):
            self._runner = self._runner or self._make()
            return self._runner.run(index, before, progress)


def mantissa(bits: int) -> Tamper:
    """Rounds to `bits` stored bits of mantissa, ties to even: 10 are TF32's, 7 are bf16's."""
    drop = 23 - bits

    def rounded(x: Array) -> Array:
        words = np.ascontiguousarray(x, np.float32).view(np.uint32)
        half = np.uint32((1 << (drop - 1)) - 1) + ((words >> np.uint32(drop)) & np.uint32(1))
        kept: Array = ((words + half) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view(np.float32)
        return kept

    return rounded


def half_precision(x: Array) -> Array:
    """Through fp16, clamped to its range."""
    return np.clip(x, -65504, 65504).astype(np.float16).astype(np.float32)


def pruned(x: Array) -> Array:
    """The smallest `PRUNED` of the weights are zero."""
    count = int(x.size * PRUNED)
    if not count:
        return x
    kept = np.array(x)
    kept.reshape(-1)[np.argpartition(np.abs(x).reshape(-1), count)[:count]] = 0
    return kept


def low_bits(x: Array) -> Array:
    """Integers of 12 bits with one scale a row."""
    scale = np.maximum(np.abs(x).max(axis=-1, keepdims=True) / np.float32(2047), np.float32(1e-30))
    rounded: Array = np.rint(x / scale) * scale
    return rounded


KINDS: dict[str, Tampering] = {
    "bf16": Tampering(mantissa(7), mantissa(7)),
    "fp16": Tampering(half_precision, half_precision),
    "low-bits": Tampering(weights=low_bits),
    "pruned": Tampering(weights=pruned),
    "tf32": Tampering(mantissa(10), mantissa(10)),
}
