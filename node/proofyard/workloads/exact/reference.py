"""The arithmetic of docs/exact.md in numpy, as plainly as it can be written: what every backend is held to.

Slow and without tricks. Integer products are int64; everything else is one binary32 operation of numpy at a time, and
no function of a library but +, -, *, /, sqrt, rint and comparisons. Sums of binary32 numbers are made by `tree` or by
adding in the stated order, never by numpy's own sums, which group their operands as they please.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from proofyard.workloads.exact.backend import Activation, AdamStep, AttentionShape, LossShape

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BLOCK = 512
LOSS_BLOCK = 128
_TINY = np.float32(2.0**-100)
_LN2_POWERS = (0x3F800000, 0x3F317218, 0x3E75FDF0, 0x3D635847, 0x3C1D955B, 0x3AAEC3FF, 0x39218489)
_NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)


def f32(value: float) -> np.float32:
    """The binary32 nearest to a number."""
    with np.errstate(all="ignore"):
        return np.float32(value)


def bits(x: F32) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(x).view(np.int32)


def pow2(exponent: npt.NDArray[np.integer[Any]]) -> F32:
    """2^e for -126 <= e <= 127, from its bits."""
    powers: F32 = ((exponent + 127) << 23).astype(np.int32).view(np.float32)
    return powers


def tree(x: F32) -> F32:
    """The sum over the last axis, padded with +0 to a power of two: the upper half is added to the lower."""
    size = 1
    while size < x.shape[-1]:
        size *= 2
    padded = np.zeros((*x.shape[:-1], size), np.float32)
    padded[..., : x.shape[-1]] = x
    while padded.shape[-1] > 1:
        half = padded.shape[-1] // 2
        padded = padded[..., :half] + padded[..., half:]
    total: F32 = padded[..., 0] + f32(0)
    return total


def add_in_order(parts: Sequence[F32]) -> F32:
    """The sum of at least one array, beginning with the first."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


# -- functions of one number ---------------------------------------------------------------------------------------


def exp(x: F32) -> F32:
    t = np.minimum(np.maximum(x * f32(1.4426950408889634), f32(-126)), f32(126))
    k = np.rint(t)
    f = t - k
    coefficients = np.array(_LN2_POWERS, np.uint32).view(np.float32)
    p = np.full_like(f, coefficients[6])
    for n in range(5, -1, -1):
        p = p * f + coefficients[n]
    scaled: F32 = p * pow2(np.where(np.isnan(k), f32(0), k).astype(np.int32))
    return scaled


def log(x: F32) -> F32:
    """Of normal positive numbers; a NaN stays one."""
    exponent = (bits(x) >> 23) - 127
    m = ((bits(x) & 0x7FFFFF) | 0x3F800000).view(np.float32)
    large = m > f32(1.41421356)
    m = np.where(large, m * f32(0.5), m)
    k = np.where(large, exponent + 1, exponent).astype(np.float32)
    z = (m - f32(1)) / (m + f32(1))
    w = z * z
    p = np.full_like(w, f32(1 / 9))
    for divisor in (7, 5, 3, 1):
        p = p * w + f32(1 / divisor)
    return np.where(np.isnan(x), x, (z * f32(2)) * p + k * f32(0.6931471805599453))


def sigmoid(x: F32) -> F32:
    return f32(1) / (f32(1) + exp(-x))


def tanh(x: F32) -> F32:
    return f32(1) - f32(2) / (exp(x * f32(2)) + f32(1))


def erf(x: F32) -> F32:
    a: F32 = np.abs(x)
    t: F32 = f32(1) / (f32(1) + f32(0.3275911) * a)
    p = np.full_like(t, f32(1.061405429))
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = p * t + f32(coefficient)
    r = f32(1) - (p * t) * exp(-(a * a))
    return np.where(x < 0, -r, r)


def silu(x: F32) -> F32:
    return x * sigmoid(x)


def silu_slope(x: F32) -> F32:
    s = sigmoid(x)
    inner: F32 = f32(1) + x * (f32(1) - s)
    return s * inner


def gelu(x: F32) -> F32:
    return (x * f32(0.5)) * (f32(1) + erf(x * f32(0.70710678)))


def gelu_slope(x: F32) -> F32:
    bell = exp((x * x) * f32(-0.5)) * f32(0.3989423)
    return (f32(1) + erf(x * f32(0.70710678))) * f32(0.5) + x * bell


def _gelu_tanh_inner(x: F32) -> F32:
    return tanh((x + (x * x * x) * f32(0.044715)) * f32(0.79788456))


def gelu_tanh(x: F32) -> F32:
    return (x * f32(0.5)) * (f32(1) + _gelu_tanh_inner(x))


def gelu_tanh_slope(x: F32) -> F32:
    u = _gelu_tanh_inner(x)
    inner = (f32(1) + (x * x) * f32(0.134145)) * f32(0.79788456)
    slope: F32 = (f32(1) + u) * f32(0.5) + ((x * f32(0.5)) * (f32(1) - u * u)) * inner
    return slope


def relu(x: F32) -> F32:
    return np.where((x > 0) | np.isnan(x), x, f32(0))


def relu_slope(x: F32) -> F32:
    return np.where(np.isnan(x), x, np.where(x > 0, f32(1), f32(0)))


def softcap(x: F32, cap: np.float32) -> F32:
    return tanh(x * (f32(1) / cap)) * cap


def softcap_slope(x: F32, cap: np.float32) -> F32:
    u = tanh(x * (f32(1) / cap))
    return f32(1) - u * u


_ACTIVATIONS: dict[Activation, tuple[Callable[[F32], F32], Callable[[F32], F32]]] = {
    "silu": (silu, silu_slope),
    "gelu": (gelu, gelu_slope),
    "gelu_tanh": (gelu_tanh, gelu_tanh_slope),
    "relu": (relu, relu_slope),
}


# -- slices and products -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slices:
    """Rows as two integers a number and a scale a row: x[i, k] is about scale[i] * (high[i, k] + low[i, k] / 64)."""

    high: I64  # (rows, columns), -63 .. 63
    low: I64  # (rows, columns), -64 .. 64
    scale: F32  # (rows,), a power of two, or NaN


def slice_rows(x: F32) -> Slices:
    """Each row over its whole length: the right operand of a product, or one block of the left one."""
    magnitude = bits(x) & 0x7FFFFFFF
    largest = np.maximum(magnitude.max(axis=1, initial=0), bits(np.array([_TINY]))[0])
    spoilt = largest >= 0x7F800000
    e = np.where(spoilt, 0, (largest >> 23) - 126)
    y = np.where(spoilt[:, None], f32(0), x) * pow2(6 - e)[:, None]
    high = np.clip(np.rint(y), f32(-63), f32(63))
    low = np.clip(np.rint((y - high) * f32(64)), f32(-64), f32(64))
    scale = np.where(spoilt, f32(np.nan), pow2(e - 6))
    return Slices(high.astype(np.int64), low.astype(np.int64), scale)


def slice_blocks(x: F32, block: int = BLOCK) -> list[Slices]:
    """The left operand of a product: blocks of columns, each with slices of its own."""
    return [slice_rows(x[:, start : start + block]) for start in range(0, x.shape[1], block)]


def combine(left: Sequence[Slices], high: I64, low: I64) -> F32:
    """Left operand (M, K) times integers (K, N): the blocks' results added in order, without the right one's scales."""
    parts, start = [], 0
    for block in left:
        rows = slice(start, start + block.high.shape[1])
        start = rows.stop
        hh = (block.high @ high[rows]).astype(np.float32)
        c = (block.high @ low[rows] + block.low @ high[rows]).astype(np.float32)
        parts.append((hh * f32(64) + c) * (block.scale / f32(64))[:, None])
    return add_in_order(parts)


def times_rows(left: Sequence[Slices], right: Slices) -> F32:
    """product(X, W), both sliced."""
    return combine(left, right.high.T, right.low.T) * right.scale


def product(x: F32, w: F32) -> F32:
    return times_rows(slice_blocks(x), slice_rows(w))


def over_rows(x: F32, right: Slices, visible: Mask | None = None, block: int = BLOCK) -> F32:
    """product_over_rows(X, W), W sliced; pairs of X that are not visible are +0."""
    if x.shape[1] == 0:
        return np.zeros((x.shape[0], right.high.shape[1]), np.float32)
    scaled = x * right.scale
    if visible is not None:
        scaled = np.where(visible, scaled, f32(0))
    return combine(slice_blocks(scaled, block), right.high, right.low)


def product_over_rows(x: F32, w: F32) -> F32:
    return over_rows(x, slice_rows(w))


def freeze(weight: F32, precision: str) -> Slices:
    match precision:
        case "exact":
            return slice_rows(weight)
        case "exact8":
            return _one_slice(weight)
        case "exact4":
            return slice_rows(normal_float(weight))
    raise ValueError(f"no precision {precision!r}: exact, exact8 and exact4 are known")


def _largest(x: F32) -> F32:
    """The largest absolute value over the last axis, at least pow2(-100); NaN if there is one."""
    largest: F32 = np.maximum(np.abs(x).max(axis=-1, initial=f32(0)), _TINY)
    return largest


def _one_slice(weight: F32) -> Slices:
    largest = _largest(weight)
    scale = np.where(np.isfinite(largest), largest / f32(63), f32(np.nan))
    quotient = weight / scale[:, None]
    high = np.clip(np.rint(np.where(np.isnan(quotient), f32(0), quotient)), f32(-63), f32(63)).astype(np.int64)
    return Slices(high, np.zeros_like(high), scale)


def normal_float(weight: F32) -> F32:
    """Every 64 consecutive weights of a row as levels of NormalFloat4 times the largest of them."""
    levels = np.array(_NF4, np.float32)
    middles = (levels[:-1] + levels[1:]) * f32(0.5)
    result = np.empty_like(weight)
    for start in range(0, weight.shape[1], 64):
        run = weight[:, start : start + 64]
        largest = _largest(run)[:, None]
        number = (middles < (run / largest)[:, :, None]).sum(axis=-1)
        result[:, start : start + 64] = levels[number] * largest
    return result


# -- attention -----------------------------------------------------------------------------------------------------


def visible_pairs(queries: int, keys: int, shape: AttentionShape) -> Mask:
    """(queries, keys): whether a key is visible to a query."""
    position = np.arange(keys - queries, keys)[:, None]
    key = np.arange(keys)[None]
    if not shape.causal:
        return np.ones((queries, keys), np.bool_)
    seen = key <= position
    return seen & (key > position - shape.window) if shape.window else seen


def _masked(x: F32, visible: Mask) -> F32:
    return np.where(visible, x, f32(0))


def _scores(q: F32, k: F32, shape: AttentionShape) -> tuple[F32, F32]:
    """(S, S before the softcap)."""
    plain = product(q, k) * f32(shape.scale)
    return (softcap(plain, f32(shape.softcap)) if shape.softcap else plain), plain


def _probabilities(scores: F32, visible: Mask) -> F32:
    largest = np.where(visible, scores, f32(-np.inf)).max(axis=1)
    e = _masked(exp(scores - largest[:, None]), visible)
    return _masked(e * (f32(1) / tree(e))[:, None], visible)


def _attend(q: F32, k: F32, v: F32, shape: AttentionShape) -> F32:
    visible = visible_pairs(len(q), len(k), shape)
    p = _probabilities(_scores(q, k, shape)[0], visible)
    return over_rows(p, slice_rows(v), visible)


def _attend_back(g: F32, q: F32, k: F32, v: F32, shape: AttentionShape) -> tuple[F32, F32, F32]:
    visible = visible_pairs(len(q), len(k), shape)
    scores, plain = _scores(q, k, shape)
    p = _probabilities(scores, visible)
    dp = _masked(product(g, v), visible)
    ds = p * (dp - tree(p * dp)[:, None])
    if shape.softcap:
        ds = ds * softcap_slope(plain, f32(shape.softcap))
    ds = _masked(ds * f32(shape.scale), visible)
    dq = over_rows(ds, slice_rows(k), visible)
    dk = over_rows(ds.T, slice_rows(q), visible.T)
    dv = over_rows(p.T, slice_rows(g), visible.T)
    return dq, dk, dv


def _spans(lengths: Sequence[int]) -> list[slice]:
    """Where each sequence's rows are."""
    ends = np.cumsum([0, *lengths]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


_Class = TypeVar("_Class")


def _quiet(cls: type[_Class]) -> type[_Class]:
    """Floating-point warnings off in all methods: an infinity or a NaN is a result like others."""
    for name, method in list(vars(cls).items()):
        if callable(method):
            setattr(cls, name, np.errstate(all="ignore")(method))
    return cls


@_quiet
class Reference:
    """A `Backend` in numpy."""

    name = "reference"

    def array(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(values)

    def numpy(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return x

    def add(self, x: F32, y: F32) -> F32:
        return x + y

    def multiply(self, x: F32, factor: float) -> F32:
        return x * f32(factor)

    def transpose(self, x: F32) -> F32:
        return np.ascontiguousarray(x.T)

    def columns(self, x: F32, start: int, stop: int) -> F32:
        return np.ascontiguousarray(x[:, start:stop])

    def beside(self, parts: Sequence[F32]) -> F32:
        return np.concatenate(parts, axis=1)

    def freeze(self, weight: npt.NDArray[Any], precision: str) -> Slices:
        return freeze(weight, precision)

    def slice(self, x: F32) -> list[Slices]:
        return slice_blocks(x)

    def linear(self, x: list[Slices], weight: Slices, bias: F32 | None = None) -> F32:
        y = times_rows(x, weight)
        return y if bias is None else y + bias

    def linear_back(self, g: F32, weight: Slices) -> F32:
        return over_rows(g, weight)

    def product(self, x: F32, y: F32) -> F32:
        return product(x, y)

    def product_over_rows(self, x: F32, y: F32) -> F32:
        return product_over_rows(x, y)

    def sum_rows(self, x: F32, y: F32, lengths: Sequence[int], onto: F32 | None = None) -> F32:
        parts = [] if onto is None else [onto]
        parts += [product_over_rows(x[span].T, y[span]) for span in _spans(lengths) if span.stop > span.start]
        return add_in_order(parts) if parts else np.zeros((x.shape[1], y.shape[1]), np.float32)

    def rms_norm(self, x: F32, weight: F32, eps: float) -> F32:
        return (x * self._root(x, eps)) * weight

    def rms_norm_back(self, g: F32, x: F32, weight: F32, eps: float) -> F32:
        r = self._root(x, eps)
        gw = g * weight
        c = (tree(gw * x) * f32(1 / x.shape[1]))[:, None]
        return gw * r - x * (((r * r) * r) * c)

    def _root(self, x: F32, eps: float) -> F32:
        """1 / the root mean square of each row, (R, 1)."""
        root: F32 = (f32(1) / np.sqrt(tree(x * x) * f32(1 / x.shape[1]) + f32(eps)))[:, None]
        return root

    def layer_norm(self, x: F32, weight: F32, bias: F32, eps: float) -> F32:
        d = self.centre(x)
        return (d * self._root(d, eps)) * weight + bias

    def centre(self, x: F32) -> F32:
        centred: F32 = x - (tree(x) * f32(1 / x.shape[1]))[:, None]
        return centred

    def unit_length(self, x: F32) -> F32:
        squares = tree(x * x)[:, None]
        return np.where(squares < _TINY, x, x * (f32(1) / np.sqrt(squares)))

    def pool_mean(self, x: F32, lengths: Sequence[int]) -> F32:
        return np.stack([tree(x[span].T) * f32(1 / (span.stop - span.start)) for span in _spans(lengths)])

    def rotate(self, x: F32, cos: F32, sin: F32, *, back: bool = False) -> F32:
        half = cos.shape[1]
        heads = x.reshape(len(x), -1, 2 * half)
        a, b = heads[:, :, :half], heads[:, :, half:]
        c, s = cos[:, None], sin[:, None]
        turned = (a * c + b * s, b * c - a * s) if back else (a * c - b * s, b * c + a * s)
        return np.concatenate(turned, axis=2).reshape(x.shape)

    def attention(self, q: F32, k: F32, v: F32, heads: int, kv_heads: int, shape: AttentionShape) -> F32:
        out = np.empty((len(q), q.shape[1] // heads * heads), np.float32)
        for rows, keys in zip(_spans(shape.queries), _spans(shape.keys), strict=True):
            for head, group in _head_pairs(q.shape[1] // heads, heads, kv_heads):
                if rows.stop > rows.start:
                    out[rows, head] = _attend(q[rows, head], k[keys, group], v[keys, group], shape)
        return out

    def attention_back(
        self, g: F32, q: F32, k: F32, v: F32, heads: int, kv_heads: int, shape: AttentionShape
    ) -> tuple[F32, F32, F32]:
        dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        for rows, keys in zip(_spans(shape.queries), _spans(shape.keys), strict=True):
            if rows.stop == rows.start:
                continue
            for number, (head, group) in enumerate(_head_pairs(q.shape[1] // heads, heads, kv_heads)):
                part = _attend_back(g[rows, head], q[rows, head], k[keys, group], v[keys, group], shape)
                first = number % (heads // kv_heads) == 0
                dq[rows, head] = part[0]
                dk[keys, group] = part[1] if first else dk[keys, group] + part[1]
                dv[keys, group] = part[2] if first else dv[keys, group] + part[2]
        return dq, dk, dv

    def activate(self, x: F32, kind: Activation) -> F32:
        return _ACTIVATIONS[kind][0](x)

    def gated(self, gate: F32, up: F32, kind: Activation) -> F32:
        return _ACTIVATIONS[kind][0](gate) * up

    def gated_back(self, g: F32, gate: F32, up: F32, kind: Activation) -> tuple[F32, F32]:
        act, slope = _ACTIVATIONS[kind]
        return (g * up) * slope(gate), g * act(gate)

    def losses(self, x: F32, head: Slices, targets: npt.NDArray[Any], shape: LossShape) -> F32:
        return self._loss(x, head, targets, shape)[0]

    def losses_back(
        self, x: F32, head: Slices, targets: npt.NDArray[Any], scale: float, shape: LossShape
    ) -> tuple[F32, F32]:
        nll, plain, e, total = self._loss(x, head, targets, shape)
        at_target = np.zeros_like(e)
        at_target[np.arange(len(x)), targets] = 1
        dz = (e * (f32(1) / total)[:, None] - at_target) * f32(scale)
        if shape.softcap:
            dz = dz * softcap_slope(plain, f32(shape.softcap))
        if shape.multiplier != 1:
            dz = dz * f32(shape.multiplier)
        return nll, over_rows(dz, head, block=LOSS_BLOCK)

    def _loss(self, x: F32, head: Slices, targets: npt.NDArray[Any], shape: LossShape) -> tuple[F32, F32, F32, F32]:
        """(nll, logits before the softcap, E, tree of E)."""
        plain = times_rows(slice_blocks(x), head)
        if shape.multiplier != 1:
            plain = plain * f32(shape.multiplier)
        z = softcap(plain, f32(shape.softcap)) if shape.softcap else plain
        m = z.max(axis=1)
        e = exp(z - m[:, None])
        total = tree(e)
        return (log(total) + m) - z[np.arange(len(x)), targets], plain, e, total

    def square_sum(self, x: F32) -> float:
        return float(tree((x * x).reshape(1, -1))[0])

    def adamw(self, p: F32, g: F32, m: F32, v: F32, factor: float, step: AdamStep) -> tuple[F32, F32, F32]:
        g = g * f32(factor)
        m = m * f32(step.beta1) + g * f32(step.rest1)
        v = v * f32(step.beta2) + (g * f32(step.rest2)) * g
        move = (m * f32(step.rate)) / (np.sqrt(v / f32(step.correction2)) + f32(step.eps))
        p = p * f32(step.keep) - move
        return p + f32(0), m + f32(0), v + f32(0)

    def finite(self, x: F32) -> bool:
        return bool(np.isfinite(x).all())


def _head_pairs(size: int, heads: int, kv_heads: int) -> list[tuple[slice, slice]]:
    """Each query head's columns and its key head's, in order."""
    group = heads // kv_heads
    return [(slice(h * size, (h + 1) * size), slice(h // group * size, (h // group + 1) * size)) for h in range(heads)]
