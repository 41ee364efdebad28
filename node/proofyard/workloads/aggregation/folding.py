"""Products of LoRA factors kept beside an adapter: stacked while they fit, made smaller where they do not.

`Factors` B (out, k) and A (k, in) stand for the matrix B A. Stacking adds products exactly: [B1 B2] [A1; A2] =
B1 A1 + B2 A2. Where more columns are stacked than may be kept, k:
  - k of at least min(out, in) keeps all: the product itself is one factor and the identity the other, each
    times a power of two that gives both the same size;
  - fewer keep the k largest singular values (Eckart and Young): QR of both factors by modified Gram-Schmidt, then
    one-sided Jacobi rotations of the small core. Rotations keep the product whatever they converge to, so a fixed
    number of sweeps is enough for equal bits, and the bits never depend on a library's decomposition.

All of it is binary64, elementwise or summed as a tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proofyard.workloads.exact_sums import tree_sum
from proofyard.workloads.state import Array

SWEEPS = 8
"""Of Jacobi rotations over all pairs of columns."""


@dataclass(frozen=True)
class Factors:
    """B (out, k) and A (k, in), binary64."""

    b: Array
    a: Array

    @property
    def rank(self) -> int:
        return int(self.b.shape[1])


def stack(factors: Sequence[Factors]) -> Factors:
    """The sum of products, without columns that add nothing."""
    b, a = np.concatenate([each.b for each in factors], axis=1), np.concatenate([each.a for each in factors])
    used = b.any(axis=0) & a.any(axis=1)
    return Factors(b[:, used], a[used])


def fold(factors: Factors, rank: int) -> Factors:
    """`factors` with exactly `rank` columns: the same product where it has that rank at most, else the nearest."""
    if factors.rank > rank:
        factors = _dense(factors) if rank >= min(len(factors.b), factors.a.shape[1]) else _nearest(factors, rank)
    lacking = rank - factors.rank
    return Factors(np.pad(factors.b, ((0, 0), (0, lacking))), np.pad(factors.a, ((0, lacking), (0, 0))))


def product(b: Array, a: Array) -> Array:
    """(out, in) of (out, k) and (k, in), the terms added in the order of k."""
    total = np.zeros((len(b), a.shape[1]))
    for number in range(b.shape[1]):
        total += b[:, number : number + 1] * a[number : number + 1]
    return total


def _dense(factors: Factors) -> Factors:
    matrix = product(factors.b, factors.a)
    rows, columns = matrix.shape
    _, exponent = np.frexp(np.abs(matrix).max())
    root = np.ldexp(1.0, int(exponent) // 2)  # a power of two, which shares the size out and rounds nothing
    if rows <= columns:
        return Factors(np.eye(rows) * root, matrix / root)
    return Factors(matrix / root, np.eye(columns) * root)


def _nearest(factors: Factors, rank: int) -> Factors:
    left, upper = orthogonal(factors.b)
    right, lower = orthogonal(factors.a.T)
    core, turned = rotated(product(upper, lower.T))
    lengths = np.sqrt(tree_sum(np.square(core.T)))
    best = np.sort(np.argsort(-lengths, kind="stable")[:rank])
    roots = np.sqrt(lengths[best])
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = np.where(roots > 0, core[:, best] / roots, 0.0)
    return Factors(product(left, shared), product(right, turned[:, best] * roots).T)


def orthogonal(matrix: Array) -> tuple[Array, Array]:
    """(Q, R) of a matrix (n, k): Q (n, m) of orthogonal columns of length 1 or 0, R (m, k), m = min(n, k). Q R is the
    matrix."""
    rest, many = np.array(matrix, np.float64), min(matrix.shape)
    q, r = np.zeros((len(rest), many)), np.zeros((many, rest.shape[1]))
    for number in range(many):
        lengths = tree_sum(np.square(rest.T))
        pivot = int(np.argmax(lengths))
        if lengths[pivot] == 0:
            break
        column = rest[:, pivot] / np.sqrt(lengths[pivot])
        q[:, number] = column
        r[number] = tree_sum(rest.T * column)
        rest -= column[:, None] * r[number]
        rest[:, pivot] = 0.0
    return q, r


def rotated(matrix: Array) -> tuple[Array, Array]:
    """(U, V): U = matrix V with columns that are all but orthogonal, V a product of rotations. In a sweep every two
    columns meet once, half of all pairs at a time (a round-robin tournament)."""
    columns = np.array(matrix.T, np.float64)
    count = len(columns)
    turned = np.eye(count)
    seats = list(range(count)) + [-1] * (count % 2)
    for _ in range(SWEEPS):
        for _ in range(len(seats) - 1):
            half = len(seats) // 2
            pairs = [(p, q) for p, q in zip(seats[:half], reversed(seats[half:]), strict=True) if min(p, q) >= 0]
            if pairs:
                _rotate(columns, turned, [min(pair) for pair in pairs], [max(pair) for pair in pairs])
            seats = [seats[0], seats[-1], *seats[1:-1]]
    return columns.T, turned.T


def _rotate(columns: Array, turned: Array, first: list[int], second: list[int]) -> None:
    """One rotation for each pair of rows of both arrays, which makes those of `columns` orthogonal."""
    x, y = columns[first], columns[second]
    across = tree_sum(x * y)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        zeta = (tree_sum(np.square(y)) - tree_sum(np.square(x))) / (2 * across)
        tangent = np.where(zeta < 0, -1.0, 1.0) / (np.abs(zeta) + np.sqrt(1 + np.square(zeta)))
    tangent = np.where((across == 0) | ~np.isfinite(tangent), 0.0, tangent)
    cosine = 1 / np.sqrt(1 + np.square(tangent))
    sine = (cosine * tangent)[:, None]
    cosine = cosine[:, None]
    for rows in (columns, turned):
        x, y = rows[first], rows[second]
        rows[first], rows[second] = cosine * x - sine * y, sine * x + cosine * y
