"""Rotary tables, the same bits on every machine: docs/exact.md, Rotary tables.

A library's sine differs from another's in its last bits, so angles are counted in 2^64ths of a turn, which integers
hold without error, and sines are polynomials in binary64, rounded once to binary32.
"""

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal, localcontext
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float32]

_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_TWO_PI = 6.283185307179586
_SIN = (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800, 1 / 6227020800)
_COS = (1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600, -1 / 87178291200)


@dataclass(frozen=True)
class Stretch:
    """Slower turns for longer texts: all by `factor`, or, where `original` positions are given, as Llama 3 does: pairs
    that turn more than `high` times over these stay as they are, those that turn less than `low` times are slowed down,
    and between the two the frequency is a mixture of both."""

    factor: float
    low: float = 0.0
    high: float = 0.0
    original: int = 0


@lru_cache(maxsize=16)
def rotary(theta: float, head_dim: int, positions: int, stretch: Stretch | None = None) -> tuple[Table, Table]:
    """(cos, sin), read-only, each (positions, head_dim / 2), of a head of `head_dim` numbers and base `theta`."""
    if head_dim <= 0 or head_dim % 2 or theta < 1 or positions < 1:
        raise ValueError(f"no rotary table of theta {theta}, head size {head_dim} and {positions} positions")
    frequencies = np.array([frequency(theta, head_dim, i, stretch) for i in range(head_dim // 2)], np.uint64)
    angles = (np.arange(positions, dtype=np.uint64)[:, None] * frequencies[None]).view(np.int64)  # wraps around
    cos, sin = _turn(angles)
    cos.setflags(write=False)
    sin.setflags(write=False)
    return cos, sin


def frequency(theta: float, head_dim: int, pair: int, stretch: Stretch | None = None) -> int:
    """F_i: how many 2^64ths of a turn a pair of a head moves per position."""
    with localcontext(Context(prec=50)):
        exponent = Decimal(-2 * pair) / Decimal(head_dim)
        turns = Decimal(repr(theta)) ** exponent / (2 * _PI)
        if stretch is not None:
            turns = _stretched(turns, stretch)
        return int((turns * 2**64).to_integral_value(ROUND_FLOOR))


def _stretched(turns: Decimal, stretch: Stretch) -> Decimal:
    """Turns per position after stretching."""
    slow = turns / Decimal(repr(stretch.factor))
    if not stretch.original:
        return slow
    low, high = Decimal(repr(stretch.low)), Decimal(repr(stretch.high))
    over_all = turns * stretch.original
    if over_all > high:
        return turns
    if over_all < low:
        return slow
    share = (over_all - low) / (high - low)
    return (1 - share) * slow + share * turns


def _turn(angles: npt.NDArray[np.int64]) -> tuple[Table, Table]:
    """(cos, sin) of angles in 2^64ths of a turn, in [-2^63, 2^63)."""
    turns = (angles >> 11).astype(np.float64) * 2.0**-53
    quarter = np.rint(turns * 4)
    v = (turns - quarter * 0.25) * _TWO_PI
    w = v * v
    sine = (v * _horner(_SIN, w)).astype(np.float32)
    cosine = _horner(_COS, w).astype(np.float32)
    number = quarter.astype(np.int64) & 3
    odd = (number & 1) == 1
    cos = np.where(odd, sine, cosine)
    sin = np.where(odd, cosine, sine)
    return np.where((number == 1) | (number == 2), -cos, cos), np.where(number >= 2, -sin, sin)


def _horner(coefficients: tuple[float, ...], w: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """c0 + w * (c1 + w * (...)), each product and each sum rounded."""
    result = np.full_like(w, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = coefficient + w * result
    return result
