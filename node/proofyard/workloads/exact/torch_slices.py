"""Slices and products (docs/exact.md) of torch tensors.

Slices come out of `cut` as binary32 integers; a left operand keeps them in the unit's type, a frozen weight as int8.
Batched operands of attention are (B, rows, columns) and always binary32.
"""

from dataclasses import dataclass

import torch

from proofyard.workloads.exact.torch_elementary import pow2
from proofyard.workloads.exact.torch_integers import Integers

Tensor = torch.Tensor

BLOCK = 4096
SMALL_BLOCK = 2080
"""The most columns for which the whole of C stays below 2^24: sums of hi * lo and lo * hi need no rounding apart."""
_LEAST_BITS = (127 - 100) << 23
_INFINITE_BITS = 0x7F800000


@dataclass(frozen=True)
class Cut:
    """Rows as integers and a scale: x is about scale * (hi + lo / 64), along the axis whose size is 1 in `scale`."""

    hi: Tensor
    lo: Tensor
    scale: Tensor

    def to(self, dtype: torch.dtype) -> "Cut":
        return Cut(self.hi.to(dtype), self.lo.to(dtype), self.scale)


@dataclass(frozen=True)
class Frozen:
    """A weight matrix (N, K) as int8 slices: `lo` is None where it is 0. On CUDA stored transposed as well."""

    hi: Tensor
    lo: Tensor | None
    scale: Tensor  # (N,)
    hi_columns: Tensor
    lo_columns: Tensor | None


def cut(x: Tensor, axis: int = -1, *, clean: bool = False) -> Cut:
    """Slices along one axis, as binary32 integers. `clean` makes them 0 where the scale is NaN; without it they may be
    anything there, which is right wherever every result that they touch is NaN anyway."""
    bits = x.abs().amax(axis, keepdim=True).view(torch.int32).bitwise_and_(0x7FFFFFFF).clamp_min_(_LEAST_BITS)
    spoilt = bits >= _INFINITE_BITS
    e = bits.bitwise_right_shift_(23).sub_(126)
    y = x * pow2(6 - e)
    if clean:
        y.masked_fill_(spoilt, 0.0)
    hi = y.round().clamp_(-63.0, 63.0)
    lo = y.sub_(hi).mul_(64.0).round_()  # |lo| <= 64 of itself: |y| < 64, so y - hi < 1 even where hi was clamped
    return Cut(hi, lo, pow2(e - 6).masked_fill_(spoilt, torch.nan))


def cut_blocks(x: Tensor, dtype: torch.dtype) -> list[Cut]:
    """A left operand (M, K): blocks of 4,096 columns."""
    return [cut(part).to(dtype) for part in torch.split(x, BLOCK, dim=-1)]


def freeze_two(weight: Tensor, *, transposed: bool) -> Frozen:
    """Two slices of every row."""
    pieces = [cut(rows).to(torch.int8) for rows in torch.split(weight, BLOCK)]
    hi, lo = torch.cat([piece.hi for piece in pieces]), torch.cat([piece.lo for piece in pieces])
    scale = torch.cat([piece.scale for piece in pieces]).reshape(-1)
    return Frozen(hi, lo, scale, _columns(hi, transposed), _columns(lo, transposed))


def freeze_one(weight: Tensor, *, transposed: bool) -> Frozen:
    """One slice of every row (exact8)."""
    largest = weight.abs().amax(-1, keepdim=True).clamp_min_(2.0**-100)
    scale = torch.div(largest, torch.full_like(largest, 63.0))
    scale = torch.where(torch.isfinite(largest), scale, torch.nan)
    hi = torch.div(weight, scale).round_().clamp_(-63.0, 63.0).to(torch.int8)
    return Frozen(hi, None, scale.reshape(-1), _columns(hi, transposed), None)


def _columns(slices: Tensor, transposed: bool) -> Tensor:
    return slices.t().contiguous().t() if transposed else slices


def combine_(hh: Tensor, c: Tensor, other: Tensor | None, width: int) -> Tensor:
    """float(HH) * 64 + float(C), C being c + other; the arguments are used up. `width` is the length of the sums."""
    if hh.dtype == torch.int32:
        c = c if other is None else c.add_(other)
        if width <= SMALL_BLOCK:  # C is exact in binary32, so the sum may be rounded at the end, once
            return c.add_(hh, alpha=64).to(torch.float32)
        return hh.to(torch.float32).mul_(64.0).add_(c.to(torch.float32))
    if other is not None:
        c.add_(other)
    return hh.mul_(64.0).add_(c)


def times_rows(left: list[Cut], right: Frozen | Cut, unit: Integers) -> Tensor:
    """product(X, W), (M, N), both sliced; right operands are (N, K)."""
    total: Tensor | None = None
    start = 0
    for part in left:
        width = part.hi.shape[1]
        hi = unit.load(right.hi[:, start : start + width])
        lo = None if right.lo is None else unit.load(right.lo[:, start : start + width])
        other = None if lo is None else unit.rows(part.hi, lo)
        y = combine_(unit.rows(part.hi, hi), unit.rows(part.lo, hi), other, width).mul_(part.scale * (1 / 64))
        total = y if total is None else total.add_(y)
        start += width
    assert total is not None
    return total.mul_(right.scale.reshape(1, -1))


def over_rows(x: Tensor, right: Frozen | Cut, unit: Integers) -> Tensor:
    """product_over_rows(X, W), (M, K), of x (M, J); right operands are (J, K)."""
    scaled = x * right.scale.reshape(1, -1)
    right_hi, right_lo = (right.hi_columns, right.lo_columns) if isinstance(right, Frozen) else (right.hi, right.lo)
    total: Tensor | None = None
    start = 0
    for part in cut_blocks(scaled, unit.dtype):
        width = part.hi.shape[1]
        hi = unit.load(right_hi[start : start + width])
        lo = None if right_lo is None else unit.load(right_lo[start : start + width])
        other = None if lo is None else unit.columns(part.hi, lo)
        y = combine_(unit.columns(part.hi, hi), unit.columns(part.lo, hi), other, width).mul_(part.scale * (1 / 64))
        total = y if total is None else total.add_(y)
        start += width
    return x.new_zeros(x.shape[0], right.hi.shape[1]) if total is None else total


def batch_times_rows(left: Cut, right: Cut, unit: Integers) -> Tensor:
    """(B, M, N) of (B, M, K) and (B, N, K): products of attention heads, K at most 4,096 and in one block."""
    hi, lo = right.hi.transpose(1, 2), right.lo.transpose(1, 2)
    hh = unit.batch(left.hi, hi)
    y = combine_(hh, unit.batch(left.hi, lo), unit.batch(left.lo, hi), left.hi.shape[2])
    return y.mul_(left.scale * (1 / 64)).mul_(right.scale.transpose(1, 2))


def batch_over_rows(scaled: Tensor, right: Cut, unit: Integers, *, transposed: bool = False) -> Tensor:
    """(B, M, K) of X' (B, M, J), which the right operand's scales (B, J) have been multiplied into, and (B, J, K).

    With `transposed` X' is given as (B, J, M)."""
    axis = 1 if transposed else 2
    total: Tensor | None = None
    for start, x in enumerate(torch.split(scaled, BLOCK, dim=axis)):
        part = cut(x, axis)
        if transposed:
            part = Cut(*(each.transpose(1, 2) for each in (part.hi, part.lo, part.scale)))
        rows = slice(start * BLOCK, (start + 1) * BLOCK)
        hi, lo = right.hi[:, rows], right.lo[:, rows]
        hh = unit.batch(part.hi, hi)
        y = combine_(hh, unit.batch(part.hi, lo), unit.batch(part.lo, hi), part.hi.shape[2]).mul_(part.scale * (1 / 64))
        total = y if total is None else total.add_(y)
    assert total is not None
    return total
