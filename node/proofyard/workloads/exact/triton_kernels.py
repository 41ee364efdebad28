"""Fused kernels of exact execution (docs/exact.md) in Triton: one launch where torch's eager operations take dozens.

Each program adds and multiplies in the order that the page states: `launch` forbids that a product and a sum become one
rounding (`enable_fp_fusion`), and divisions and roots are the correctly rounded ones. Integers have one sum in any
order, so theirs are left to the tensor cores. Offsets are in elements.
"""

from typing import Any

import numpy as np
import triton
import triton.language as tl

_LN2_POWERS = np.array((0x3F317218, 0x3E75FDF0, 0x3D635847, 0x3C1D955B, 0x3AAEC3FF, 0x39218489), np.uint32)
_HALVES = (_LN2_POWERS.view(np.float32) * np.float32(0.5)).tolist()
C1, C2, C3, C4, C5, C6 = (tl.constexpr(value) for value in _HALVES)
LOG2E = tl.constexpr(float(np.float32(1.4426950408889634)))
ROUNDER = tl.constexpr(1.5 * 2**23)
"""Added and taken off again, it rounds a number below 2^22 to an integer, ties to even."""
ROUNDER_128 = tl.constexpr(1.5 * 2**23 + 128)
LEAST_BITS = tl.constexpr((127 - 100) << 23)
INFINITE_BITS = tl.constexpr(0x7F800000)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, **constants: Any) -> None:
    """Run a kernel where there is anything to do."""
    if all(grid):
        kernel[grid](*args, **constants, num_warps=warps, enable_fp_fusion=False)


def power_of_two(n: int) -> int:
    """The least that is not below n."""
    return 1 << max(0, (n - 1).bit_length())


# -- functions -----------------------------------------------------------------------------------------------------


@triton.jit
def _plus(a, b):
    return a + b


@triton.jit
def tree(x, LEVELS: tl.constexpr):
    """tree(x) of 2^LEVELS numbers: the upper half is added to the lower one until one is left."""
    for level in tl.static_range(LEVELS):
        x = tl.reduce(tl.reshape(x, (2, 1 << (LEVELS - 1 - level))), 0, _plus)
    return tl.sum(x, 0) + 0.0


@triton.jit
def from_bits(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def round_even(x):
    return (x + ROUNDER) - ROUNDER


@triton.jit
def inverse(x):
    return tl.div_rn(tl.full(x.shape, 1.0, tl.float32), x)


@triton.jit
def exp(x):
    t = tl.maximum(x * LOG2E, -126.0, propagate_nan=tl.PropagateNan.ALL)
    t = tl.minimum(t, 126.0, propagate_nan=tl.PropagateNan.ALL)
    power = t + ROUNDER_128
    f = t - (power - ROUNDER_128)
    p = ((((((f * C6) + C5) * f + C4) * f + C3) * f + C2) * f + C1) * f + 0.5
    return p * from_bits(power.to(tl.int32, bitcast=True) << 23)


@triton.jit
def tanh(x):
    denominator = exp(x * 2.0) + 1.0
    return 1.0 - tl.div_rn(tl.full(x.shape, 2.0, tl.float32), denominator)


@triton.jit
def erf(x):
    a = tl.abs(x)
    t = inverse(a * 0.3275911 + 1.0)
    p = ((((t * 1.061405429 + -1.453152027) * t) + 1.421413741) * t + -0.284496736) * t + 0.254829592
    r = 1.0 - (p * t) * exp(-(a * a))
    return tl.where(x < 0.0, -r, r)


@triton.jit
def act(x, KIND: tl.constexpr):
    """act(x)."""
    if KIND == "silu":
        return x * inverse(exp(-x) + 1.0)
    elif KIND == "gelu":
        return (x * 0.5) * (erf(x * 0.70710678) + 1.0)
    elif KIND == "gelu_tanh":
        return (x * 0.5) * (tanh((x + (x * x * x) * 0.044715) * 0.79788456) + 1.0)
    else:
        return tl.where(x <= 0.0, 0.0, x)


@triton.jit
def slope(x, KIND: tl.constexpr):
    """act'(x)."""
    if KIND == "silu":
        s = inverse(exp(-x) + 1.0)
        return s * ((1.0 - s) * x + 1.0)
    elif KIND == "gelu":
        bell = exp((x * x) * -0.5) * 0.3989423
        return (erf(x * 0.70710678) + 1.0) * 0.5 + bell * x
    elif KIND == "gelu_tanh":
        u = tanh((x + (x * x * x) * 0.044715) * 0.79788456)
        inner = ((x * x) * 0.134145 + 1.0) * 0.79788456
        return (u + 1.0) * 0.5 + (1.0 - u * u) * (x * 0.5) * inner
    else:
        return tl.where(x != x, x, tl.where(x > 0.0, 1.0, 0.0))


# -- slices and products -------------------------------------------------------------------------------------------


@triton.jit
def _numbers(x, factor, hidden, at, here, column, HAS_FACTOR: tl.constexpr, HAS_HIDDEN: tl.constexpr):
    """What is sliced: x, times the factor of its column, +0 where a pair is hidden."""
    value = tl.load(x, mask=here, other=0.0)
    if HAS_FACTOR:
        value = value * tl.load(factor + column, mask=here, other=0.0)
    if HAS_HIDDEN:
        value = tl.where(tl.load(hidden + at, mask=here, other=1) != 0, 0.0, value)
    return value


@triton.jit(do_not_specialize=["block", "x_batch", "factor_batch", "entries", "period", "hidden_batch"])
def cut_kernel(
    x, factor, hidden, hi, lo, scale, columns, block, x_batch, x_row, x_column, factor_batch, entries, period,
    hidden_batch, hidden_row, hidden_column, HAS_FACTOR: tl.constexpr, HAS_HIDDEN: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Slices of one block of a row: program (row, block, batch); hi and lo are (batch, rows, columns), scale (batch,
    rows, blocks). Slices are 0 where the scale is NaN."""
    row, number, batch = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows, blocks = tl.num_programs(0), tl.num_programs(1)
    x += batch * x_batch + row * x_row
    factor += batch * factor_batch
    hidden += (batch // entries) * hidden_batch + (row % period) * hidden_row
    start, stop = number * block, tl.minimum(columns, (number + 1) * block)
    largest = tl.zeros((CHUNK,), tl.int32)
    for first in range(start, stop, CHUNK):
        column = first + tl.arange(0, CHUNK)
        here = column < stop
        y = _numbers(
            x + column * x_column, factor, hidden, column * hidden_column, here, column, HAS_FACTOR, HAS_HIDDEN
        )
        largest = tl.maximum(largest, y.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    most = tl.maximum(tl.max(largest, 0), LEAST_BITS)
    spoilt = most >= INFINITE_BITS
    e = (most >> 23) - 126
    up = from_bits((133 - e) << 23)
    tl.store(scale + (batch * rows + row) * blocks + number, tl.where(spoilt, float("nan"), from_bits((e + 121) << 23)))
    place = (batch * rows + row) * columns
    for first in range(start, stop, CHUNK):
        column = first + tl.arange(0, CHUNK)
        here = column < stop
        y = _numbers(
            x + column * x_column, factor, hidden, column * hidden_column, here, column, HAS_FACTOR, HAS_HIDDEN
        )
        y = tl.where(spoilt, 0.0, y) * up
        upper = tl.minimum(tl.maximum(round_even(y), -63.0), 63.0)
        lower = round_even((y - upper) * 64.0)
        tl.store(hi + place + column, upper.to(tl.int8), mask=here)
        tl.store(lo + place + column, lower.to(tl.int8), mask=here)


@triton.jit(
    do_not_specialize=["M", "left_batch", "scale_row", "scale_batch", "right_batch", "factor_batch", "out_batch"]
)
def product_kernel(
    left_hi, left_lo, left_scale, hi, lo, scale, bias, out, M, N, K, left_row, left_batch, scale_row, scale_batch,
    right_n, right_k, right_batch, factor_batch, out_row, out_batch, BLOCK: tl.constexpr, HAS_LO: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out[m, n]: the blocks' values of left (M, K) and right (K, N) added in order, times scale[n], plus bias[n]."""
    batch = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    row, column = m < M, n < N
    left = batch * left_batch + m.to(tl.int64)[:, None] * left_row + k[None, :]
    right = batch * right_batch + n.to(tl.int64)[None, :] * right_n + k[:, None] * right_k
    left_scale += batch * scale_batch + m.to(tl.int64) * scale_row
    total = tl.zeros((BM, BN), tl.float32)
    for block in range(tl.cdiv(K, BLOCK)):
        hh = tl.zeros((BM, BN), tl.int32)
        c = tl.zeros((BM, BN), tl.int32)
        for first in range(block * BLOCK, tl.minimum(K, (block + 1) * BLOCK), BK):
            some = k < K - first
            here, there = row[:, None] & some[None, :], column[None, :] & some[:, None]
            a = tl.load(left_hi + left + first, mask=here, other=0)
            b = tl.load(hi + right + first * right_k, mask=there, other=0)
            hh = tl.dot(a, b, hh, out_dtype=tl.int32)
            c = tl.dot(tl.load(left_lo + left + first, mask=here, other=0), b, c, out_dtype=tl.int32)
            if HAS_LO:
                c = tl.dot(a, tl.load(lo + right + first * right_k, mask=there, other=0), c, out_dtype=tl.int32)
        s = tl.load(left_scale + block, mask=row, other=0.0) * 0.015625
        total += (hh * 64 + c).to(tl.float32) * s[:, None]
    if HAS_SCALE:
        total = total * tl.load(scale + batch * factor_batch + n, mask=column, other=0.0)[None, :]
    if HAS_BIAS:
        total = total + tl.load(bias + n, mask=column, other=0.0)[None, :]
    place = batch * out_batch + m.to(tl.int64)[:, None] * out_row + n[None, :]
    tl.store(out + place, total, mask=row[:, None] & column[None, :])


# -- rows ----------------------------------------------------------------------------------------------------------


@triton.jit
def tree_kernel(x, out, columns, SQUARES: tl.constexpr, LEVELS: tl.constexpr):
    """out[row] = tree(x[row]), or of the squares."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, 1 << LEVELS)
    value = tl.load(x + row * columns + column, mask=column < columns, other=0.0)
    if SQUARES:
        value = value * value
    tl.store(out + row, tree(value, LEVELS))


@triton.jit
def _mean(x, share, LEVELS: tl.constexpr):
    return tree(x, LEVELS) * share


@triton.jit
def _root(x, share, eps, LEVELS: tl.constexpr):
    return tl.div_rn(1.0, tl.sqrt_rn(tree(x * x, LEVELS) * share + eps))


@triton.jit
def norm_kernel(
    x, weight, bias, out, columns, share, eps, CENTRE: tl.constexpr, NORM: tl.constexpr, LEVELS: tl.constexpr
):  # fmt: skip
    """RMSNorm (without `CENTRE`), LayerNorm, or only what LayerNorm centres (without `NORM`)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, 1 << LEVELS)
    here = column < columns
    y = tl.load(x + row * columns + column, mask=here, other=0.0)
    if CENTRE:
        y = tl.where(here, y - _mean(y, share, LEVELS), 0.0)
    if NORM:
        y = (y * _root(y, share, eps, LEVELS)) * tl.load(weight + column, mask=here, other=0.0)
        if CENTRE:
            y = y + tl.load(bias + column, mask=here, other=0.0)
    tl.store(out + row * columns + column, y, mask=here)


@triton.jit
def rms_back_kernel(g, x, weight, out, columns, share, eps, LEVELS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, 1 << LEVELS)
    here = column < columns
    y = tl.load(x + row * columns + column, mask=here, other=0.0)
    gw = tl.load(g + row * columns + column, mask=here, other=0.0) * tl.load(weight + column, mask=here, other=0.0)
    r = _root(y, share, eps, LEVELS)
    c = _mean(gw * y, share, LEVELS)
    tl.store(out + row * columns + column, gw * r - y * (((r * r) * r) * c), mask=here)


@triton.jit(do_not_specialize=["rows", "period", "hidden_entry"])
def probabilities_kernel(
    s, hidden, keys, rows, factor, period, hidden_entry, HAS_HIDDEN: tl.constexpr, LEVELS: tl.constexpr
):  # fmt: skip
    """P of scores (entries, rows, keys) in their place; row i of an entry is hidden as row i mod `period`."""
    row, entry = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    key = tl.arange(0, 1 << LEVELS)
    here = key < keys
    s += (entry * rows + row) * keys
    x = tl.load(s + key, mask=here, other=0.0) * factor
    visible = here
    if HAS_HIDDEN:
        visible = here & (tl.load(hidden + entry * hidden_entry + (row % period) * keys + key, mask=here, other=1) == 0)
    m = tl.max(tl.where(visible, x, float("-inf")), 0)
    m = tl.where(tl.max(tl.where(visible & (x != x), 1, 0), 0) > 0, float("nan"), m)
    e = tl.where(visible, exp(x - m), 0.0)
    tl.store(s + key, tl.where(visible, e * tl.div_rn(1.0, tree(e, LEVELS)), 0.0), mask=here)


@triton.jit(do_not_specialize=["rows", "period", "hidden_entry"])
def scores_back_kernel(
    p, dp, hidden, keys, rows, factor, period, hidden_entry, HAS_HIDDEN: tl.constexpr, LEVELS: tl.constexpr
):  # fmt: skip
    """dS in the place of dP."""
    row, entry = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    key = tl.arange(0, 1 << LEVELS)
    here = key < keys
    place = (entry * rows + row) * keys + key
    visible = here
    if HAS_HIDDEN:
        visible = here & (tl.load(hidden + entry * hidden_entry + (row % period) * keys + key, mask=here, other=1) == 0)
    x = tl.where(visible, tl.load(dp + place, mask=here, other=0.0), 0.0)
    y = tl.load(p + place, mask=here, other=0.0)
    found = (y * (x - tree(y * x, LEVELS))) * factor
    tl.store(dp + place, tl.where(visible, found, 0.0), mask=here)


# -- elements ------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["count"])
def gated_kernel(gate, up, out, count, KIND: tl.constexpr, HAS_UP: tl.constexpr, CHUNK: tl.constexpr):
    """act(gate) * up, or act(gate)."""
    at = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    here = at < count
    value = act(tl.load(gate + at, mask=here, other=0.0), KIND)
    if HAS_UP:
        value = value * tl.load(up + at, mask=here, other=0.0)
    tl.store(out + at, value, mask=here)


@triton.jit(do_not_specialize=["count"])
def gated_back_kernel(g, gate, up, dgate, dup, count, KIND: tl.constexpr, CHUNK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    here = at < count
    x, y = tl.load(gate + at, mask=here, other=0.0), tl.load(g + at, mask=here, other=0.0)
    tl.store(dgate + at, (y * tl.load(up + at, mask=here, other=0.0)) * slope(x, KIND), mask=here)
    tl.store(dup + at, act(x, KIND) * y, mask=here)


@triton.jit(do_not_specialize=["width"])
def rotate_kernel(x, cos, sin, out, width, half, BACK: tl.constexpr, CHUNK: tl.constexpr):
    """Program (row, chunk of its pairs); a row holds heads of 2 * half numbers."""
    row = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    here = pair < width // 2
    i = pair % half
    first = row * width + (pair // half) * (2 * half) + i
    a, b = tl.load(x + first, mask=here, other=0.0), tl.load(x + first + half, mask=here, other=0.0)
    c, s = tl.load(cos + row * half + i, mask=here, other=0.0), tl.load(sin + row * half + i, mask=here, other=0.0)
    if BACK:
        tl.store(out + first, a * c + b * s, mask=here)
        tl.store(out + first + half, b * c - a * s, mask=here)
    else:
        tl.store(out + first, a * c - b * s, mask=here)
        tl.store(out + first + half, b * c + a * s, mask=here)


@triton.jit(do_not_specialize=["count"])
def adamw_kernel(
    p, g, m, v, p_out, m_out, v_out, count, factor, beta1, rest1, beta2, rest2, correction2, rate, keep, eps,
    CHUNK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    here = at < count
    gradient = tl.load(g + at, mask=here, other=0.0) * factor
    first = tl.load(m + at, mask=here, other=0.0) * beta1 + gradient * rest1
    second = tl.load(v + at, mask=here, other=0.0) * beta2 + (gradient * rest2) * gradient
    spread = tl.sqrt_rn(tl.div_rn(second, tl.full((CHUNK,), 0.0, tl.float32) + correction2)) + eps
    weight = tl.load(p + at, mask=here, other=0.0) * keep - tl.div_rn(first * rate, spread)
    tl.store(p_out + at, weight + 0.0, mask=here)
    tl.store(m_out + at, first + 0.0, mask=here)
    tl.store(v_out + at, second + 0.0, mask=here)
