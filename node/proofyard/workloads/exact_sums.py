"""Sums in binary64 whose order is fixed: the same everywhere, whatever numpy's own sums do with vector units."""

import numpy as np

from proofyard.workloads.state import Array


def tree_sum(values: Array) -> Array:
    """The sums over the last axis: neighbours are added until one number is left. Shape (...)."""
    sums = values.astype(np.float64)
    if not sums.shape[-1]:
        return np.zeros(sums.shape[:-1])
    while (size := sums.shape[-1]) > 1:
        pairs = sums[..., : size - size % 2 : 2] + sums[..., 1::2]
        sums = np.concatenate([pairs, sums[..., size - 1 :]], axis=-1) if size % 2 else pairs
    one: Array = sums[..., 0]
    return one
