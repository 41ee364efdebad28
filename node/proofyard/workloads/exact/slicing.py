"""What a precision makes of frozen weights before they are sliced (docs/exact.md, Frozen weights)."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PRECISIONS = ("exact", "exact8", "exact4")
RUN = 64
LEAST = np.float32(2.0**-100)
# The levels of NormalFloat4: quantiles of a normal distribution, scaled to [-1, 1] (QLoRA, arXiv 2305.14314, E).
NF4 = np.array(
    (
        *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
    ),
    np.float32,
)
_MIDDLES = (NF4[1:] + NF4[:-1]) * np.float32(0.5)


def expanded(weight: Array, precision: str) -> Array:
    """The binary32 weights (outputs, inputs) that are sliced: for `exact4` those of NormalFloat4, else themselves."""
    if precision != "exact4":
        return weight
    inputs = weight.shape[1]
    found = np.empty_like(weight, np.float32)
    for first in range(0, inputs, RUN):
        run = weight[:, first : first + RUN].astype(np.float32)
        largest = np.maximum(np.abs(run).max(axis=1, keepdims=True), LEAST)
        levels = np.searchsorted(_MIDDLES, run / largest, side="left")
        found[:, first : first + RUN] = NF4[levels] * largest
    return found


def frozen_values(weight: Array, precision: str) -> Array:
    """The binary32 weights that a precision computes with, but for the last bits of two slices."""
    if precision != "exact8":
        return expanded(weight, precision)
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), LEAST) / np.float32(63)
    found: Array = np.clip(np.rint(weight / scale), np.float32(-63), np.float32(63)) * scale
    return found
