"""Updates of a round as vectors of many tensors, read in parts: nothing as large as all of them is held at once.

A vector's tensors are taken in the order of their names, each in parts of `PART` numbers. Sums over a tensor are trees
(`exact_sums`): a part that is a power of two long is a subtree, so the length of the parts changes no bit.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from proofyard.workloads.exact_sums import tree_sum
from proofyard.workloads.state import Array

PART = 1 << 14
"""Numbers of each vector in memory at once; a power of two."""

Sizes = Mapping[str, int]
"""How many numbers each tensor of a vector has."""


class Vector(Protocol):
    """One vector."""

    def part(self, name: str, some: slice) -> Array:
        """Some numbers of a tensor in row-major order, binary64, none of them -0."""
        ...


@dataclass(frozen=True)
class Change:
    """What a worker made of `base`, times `factor`."""

    base: Mapping[str, Array]
    trained: Mapping[str, Array]
    factor: float = 1.0

    def part(self, name: str, some: slice) -> Array:
        after, before = (each[name].reshape(-1)[some].astype(np.float64) for each in (self.trained, self.base))
        change: Array = (after - before) * self.factor + 0.0
        return change


@dataclass(frozen=True)
class Weighted:
    """The sum of some vectors, each times its weight, in their order."""

    vectors: Sequence[Vector]
    weights: Sequence[float]

    def part(self, name: str, some: slice) -> Array:
        return weighted([vector.part(name, some) for vector in self.vectors], self.weights)


def weighted(rows: Sequence[Array] | Array, weights: Sequence[float]) -> Array:
    """The sum of arrays of one shape, each times its weight, in their order."""
    total = rows[0] * weights[0]
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total = total + row * weight
    return total + 0.0


def stacks(vectors: Sequence[Vector], sizes: Sizes, part: int) -> Iterator[tuple[str, slice, Array]]:
    """All vectors side by side, (n, numbers), part by part."""
    for name in sorted(sizes):
        for start in range(0, sizes[name], part):
            some = slice(start, min(start + part, sizes[name]))
            yield name, some, np.stack([vector.part(name, some) for vector in vectors])


def whole(sizes: Sizes, parts: Iterator[tuple[str, slice, Array]]) -> dict[str, Array]:
    """The tensors that parts make, each as one row of numbers."""
    found = {name: np.zeros(size) for name, size in sizes.items()}
    for name, some, values in parts:
        found[name][some] = values
    return found


def distances(
    vectors: Sequence[Vector], sizes: Sizes, centre: Callable[[Array], Array], part: int = PART
) -> list[float]:
    """The L2 distance of each vector from what `centre` makes of a stack (n, numbers): (numbers,)."""
    sums: dict[str, list[Array]] = {name: [] for name in sorted(sizes)}
    for name, _, stack in stacks(vectors, sizes, part):
        sums[name].append(tree_sum(np.square(stack - centre(stack))))
    return [math.sqrt(max(0.0, square)) for square in _totals(sums, len(vectors))]


def pairwise(vectors: Sequence[Vector], sizes: Sizes, part: int = PART) -> list[list[float]]:
    """The squared L2 distances of all pairs."""
    count = len(vectors)
    sums: dict[str, list[Array]] = {name: [] for name in sorted(sizes)}
    for name, _, stack in stacks(vectors, sizes, part):
        rows = [tree_sum(np.square(stack[i + 1 :] - stack[i])) for i in range(count - 1)]
        sums[name].append(np.concatenate([*rows, np.zeros(0)]))
    found = [[0.0] * count for _ in range(count)]
    totals = iter(_totals(sums, count * (count - 1) // 2))
    for i in range(count):
        for j in range(i + 1, count):
            found[i][j] = found[j][i] = next(totals)
    return found


def _totals(sums: Mapping[str, Sequence[Array]], count: int) -> list[float]:
    """Of each of `count` sums the tree over a tensor's parts, and of those the exactly rounded total."""
    tensors = [tree_sum(np.stack(parts, axis=-1)) for parts in sums.values() if parts]
    return [math.fsum(float(each[number]) for each in tensors) for number in range(count)]
