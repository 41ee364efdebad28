"""Slices and products (docs/exact.md) of torch tensors.

Slices come out of `cut` as binary32 integers; a left operand keeps them in the unit's type, a frozen weight as int8.
Batched operands of attention are (B, rows, columns) and always binary32.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from proofyard.workloads.exact.torch_elementary import pow2
from proofyard.workloads.exact.torch_integers import Integers

Tensor = torch.Tensor

BLOCK = 512
ROWS_AT_ONCE = {"cpu": 512, "cuda": 1 << 30}
"""Rows of a product, so that its integer sums stay in a CPU's cache."""
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

    def rows(self, some: slice) -> "Frozen":
        """Some rows of the matrix, for products with rows."""
        lo = None if self.lo is None else self.lo[some]
        return replace(self, hi=self.hi[some], lo=lo, scale=self.scale[some])


def cut(x: Tensor, axis: int = -1, *, clean: bool = False) -> Cut:
    """Slices along one axis, as binary32 integers. `clean` makes them 0 where the scale is NaN; without it they may be
    anything there, which is right wherever every result that they touch is NaN anyway."""
    return _cut(x, axis, clean=clean, into=None)


def cut_(x: Tensor, axis: int = -1) -> Cut:
    """`cut` that uses x up."""
    return _cut(x, axis, clean=False, into=x)


def _cut(x: Tensor, axis: int, *, clean: bool, into: Tensor | None) -> Cut:
    largest = torch.maximum(x.amax(axis, keepdim=True), x.amin(axis, keepdim=True).neg_())
    bits = largest.view(torch.int32).bitwise_and_(0x7FFFFFFF).clamp_min_(_LEAST_BITS)
    spoilt = bits >= _INFINITE_BITS
    e = bits.bitwise_right_shift_(23).sub_(126)
    y = torch.mul(x, pow2(6 - e), out=into)
    if clean:
        y.masked_fill_(spoilt, 0.0)
    hi = y.round().clamp_(-63.0, 63.0)
    lo = y.sub_(hi).mul_(64.0).round_()  # |lo| <= 64 of itself: |y| < 64, so y - hi < 1 even where hi was clamped
    return Cut(hi, lo, pow2(e - 6).masked_fill_(spoilt, torch.nan))


@dataclass(frozen=True)
class Left:
    """A left operand (M, K) in blocks of 512 columns, the last one shorter, with a scale each: (M, blocks)."""

    hi: Tensor
    lo: Tensor
    scale: Tensor

    def blocks(self) -> Iterator[tuple[slice, Cut]]:
        """Each block's columns and slices, the scale being (M, 1)."""
        for number in range(self.scale.shape[1]):
            columns = slice(number * BLOCK, (number + 1) * BLOCK)
            yield columns, Cut(self.hi[:, columns], self.lo[:, columns], self.scale[:, number : number + 1])

    def rows(self, some: slice) -> "Left":
        return Left(self.hi[some], self.lo[some], self.scale[some])


def cut_left(x: Tensor, unit: Integers) -> Left:
    """The left operand of a product, as its unit takes it."""
    parts = [_cut_left(rows, unit, uses_up=False) for rows in torch.split(x, ROWS_AT_ONCE[x.device.type])]
    if len(parts) == 1:
        return parts[0]
    hi, lo, scale = (torch.cat([getattr(part, name) for part in parts]) for name in ("hi", "lo", "scale"))
    return Left(hi, lo, scale)


def _cut_left(x: Tensor, unit: Integers, *, uses_up: bool) -> Left:
    columns = x.shape[1]
    full = columns - columns % BLOCK
    found = []
    for piece, size in ((x[:, :full], BLOCK), (x[:, full:], columns - full)):
        if piece.shape[1]:
            blocks = piece.view(len(piece), -1, size)
            found.append(_cut(blocks, -1, clean=False, into=blocks if uses_up else None).to(unit.dtype))
    if len(found) == 1:
        return Left(found[0].hi.flatten(1), found[0].lo.flatten(1), found[0].scale.flatten(1))
    hi, lo, scale = ([getattr(part, name).flatten(1) for part in found] for name in ("hi", "lo", "scale"))
    return Left(torch.cat(hi, 1), torch.cat(lo, 1), torch.cat(scale, 1))


def freeze_two(weight: Tensor) -> Frozen:
    """Two slices of every row."""
    pieces = [cut(rows).to(torch.int8) for rows in torch.split(weight, BLOCK)]
    hi, lo = torch.cat([piece.hi for piece in pieces]), torch.cat([piece.lo for piece in pieces])
    return Frozen(hi, lo, torch.cat([piece.scale for piece in pieces]).reshape(-1), hi, lo)


def freeze_one(weight: Tensor) -> Frozen:
    """One slice of every row (exact8)."""
    largest = weight.abs().amax(-1, keepdim=True).clamp_min_(2.0**-100)
    scale = torch.div(largest, torch.full_like(largest, 63.0))
    scale = torch.where(torch.isfinite(largest), scale, torch.nan)
    hi = torch.div(weight, scale).round_().clamp_(-63.0, 63.0).to(torch.int8)
    return Frozen(hi, None, scale.reshape(-1), hi, None)


def with_columns(frozen: Frozen) -> Frozen:
    """The slices stored a second time, transposed, for products over rows on devices that want that."""
    hi, lo = (None if x is None else x.t().contiguous().t() for x in (frozen.hi, frozen.lo))
    assert hi is not None
    return replace(frozen, hi_columns=hi, lo_columns=lo)


@dataclass(frozen=True)
class Sums:
    """The integer sums of one block of columns: HH, and C as `c` + `other`."""

    hh: Tensor
    c: Tensor
    other: Tensor | None
    scale: Tensor  # s of the left operand, of size 1 in the last axis

    def value_(self) -> Tensor:
        """(float(HH) * 64 + float(C)) * (s / 64); the sums are used up.

        In blocks of 512 columns C is below 2^23, so `float` is exact and integers may be rounded at the end, once."""
        c = self.c if self.other is None else self.c.add_(self.other)
        y = c.add_(self.hh, alpha=64).to(torch.float32) if c.dtype == torch.int32 else self.hh.mul_(64.0).add_(c)
        return y.mul_(self.scale * (1 / 64))


def add_blocks_(blocks: Iterable[Sums]) -> Tensor:
    """The values of at least one block, added in order; the sums are used up."""
    total: Tensor | None = None
    two_zeros = False
    for block in blocks:
        two_zeros |= block.hh.dtype != torch.int32
        total = block.value_() if total is None else total.add_(block.value_())
    assert total is not None
    # Integers have one zero, sums of products in binary32 have two. Nothing here underflows, so no other -0 is lost.
    return total.add_(0.0) if two_zeros else total


def block_sums(part: Cut, hi: Tensor, lo: Tensor | None, multiply: Callable[[Tensor, Tensor], Tensor]) -> Sums:
    """Of one block: `multiply` is a unit's, `hi` and `lo` the other operand's slices as the unit takes them."""
    other = None if lo is None else multiply(part.hi, lo)
    return Sums(multiply(part.hi, hi), multiply(part.lo, hi), other, part.scale)


def _loaded(hi: Tensor, lo: Tensor | None, unit: Integers) -> tuple[Tensor, Tensor | None]:
    return unit.load(hi), None if lo is None else unit.load(lo)


def times_rows(left: Left, right: Frozen | Cut, unit: Integers, out: Tensor | None = None) -> Tensor:
    """product(X, W), (M, N), both sliced; right operands are (N, K)."""
    count, some = len(left.hi), ROWS_AT_ONCE[left.hi.device.type]
    if count > some:
        out = left.scale.new_empty(count, len(right.hi)) if out is None else out
        for start in range(0, count, some):
            rows = slice(start, start + some)
            times_rows(left.rows(rows), right, unit, out[rows])
        return out

    def sums() -> Iterator[Sums]:
        for columns, part in left.blocks():
            lo = None if right.lo is None else right.lo[:, columns]
            yield block_sums(part, *_loaded(right.hi[:, columns], lo, unit), unit.rows)

    total = add_blocks_(sums())
    return torch.mul(total, right.scale.view(1, -1), out=total if out is None else out)


def over_rows(x: Tensor, right: Frozen | Cut, unit: Integers) -> Tensor:
    """product_over_rows(X, W), (M, K), of x (M, J); right operands are (J, K)."""
    if not x.shape[1]:
        return x.new_zeros(len(x), right.hi.shape[1])
    some = ROWS_AT_ONCE[x.device.type]
    if len(x) > some:
        return torch.cat([over_rows(rows, right, unit) for rows in torch.split(x, some)])
    hi, lo = (right.hi_columns, right.lo_columns) if isinstance(right, Frozen) else (right.hi, right.lo)
    left = _cut_left(x * right.scale.view(1, -1), unit, uses_up=True)

    def sums() -> Iterator[Sums]:
        for rows, part in left.blocks():
            yield block_sums(part, *_loaded(hi[rows], None if lo is None else lo[rows], unit), unit.columns)

    return add_blocks_(sums())


def batch_times_rows(left: Cut, right: Cut, unit: Integers) -> Tensor:
    """(B, M, N) of (B, M, K) and (B, N, K): products of attention heads, K at most 512, in one block."""
    (_, m, k), n = left.hi.shape, right.hi.shape[1]
    dtype = unit.batch_dtype(m, k, n)
    hi, lo = right.hi.to(dtype).transpose(1, 2), right.lo.to(dtype).transpose(1, 2)
    return add_blocks_([block_sums(left.to(dtype), hi, lo, unit.batch)]).mul_(right.scale.transpose(1, 2))


def batch_over_rows_(scaled: Tensor, right: Cut, unit: Integers, *, transposed: bool = False) -> Tensor:
    """(B, M, K) of X' (B, M, J), which the right operand's scales (B, J) have been multiplied into, and (B, J, K).

    With `transposed` X' is given as (B, J, M). It is used up."""
    axis = 1 if transposed else 2
    dtype = unit.batch_dtype(scaled.shape[3 - axis], scaled.shape[axis], right.hi.shape[2])
    hi, lo = right.hi.to(dtype), right.lo.to(dtype)

    def blocks() -> Iterator[Sums]:
        for number, x in enumerate(torch.split(scaled, BLOCK, dim=axis)):
            left = cut_(x, axis).to(dtype)
            if transposed:
                left = Cut(left.hi.transpose(1, 2), left.lo.transpose(1, 2), left.scale.transpose(1, 2))
            rows = slice(number * BLOCK, (number + 1) * BLOCK)
            yield block_sums(left, hi[:, rows], lo[:, rows], unit.batch)

    return add_blocks_(blocks())
