"""The functions of docs/exact.md on torch tensors: one IEEE 754 operation a torch call, on CPUs and on CUDA.

What torch does, seen in 2.13 on x86 (over all mantissas) and read in its CUDA kernels, and what follows from it:
- `torch.sqrt` of binary32 on a CPU is MKL's and wrong in the last bit for a sixth of all numbers: `sqrt` takes the root
  in binary64, whose error of one unit can never cross a border between two binary32 numbers, and rounds that.
- `c / x` with a Python number is `reciprocal(x) * c`, two roundings, and `x / c` on CUDA is `x * (1 / c)`: both sides
  of a division are tensors on the device here (`divide`, `inverse`).
- In `x * c`, `x + c` the Python number is rounded to binary32 first; `f32` does it beforehand all the same.
- `add` and `sub` are fused multiply-adds with a factor of 1 or -1: one rounding. `round` ties to even, `clamp` and
  `amax` keep NaNs (whose sign and payload may change). What an integer conversion makes of a NaN differs between
  machines; it is only ever multiplied by a NaN, or by nothing.
- `pow`, `ldexp`, `exp` and the like are library functions; powers of two are made from their bits.
- CUDA kernels of torch are compiled with exact division and root and with subnormals; CPU kernels keep subnormals
  unless a program calls `set_flush_denormal`.
"""

from collections.abc import Callable

import numpy as np
import torch

from proofyard.workloads.exact.backend import Activation

Tensor = torch.Tensor

_LN2_POWERS = np.array((0x3F317218, 0x3E75FDF0, 0x3D635847, 0x3C1D955B, 0x3AAEC3FF, 0x39218489), np.uint32)
# Half of ln(2)^n / n! for n = 1 .. 6
_C1, _C2, _C3, _C4, _C5, _C6 = (_LN2_POWERS.view(np.float32) * np.float32(0.5)).tolist()
_TO_INTEGER = 1.5 * 2**23 + 128


def f32(value: float) -> float:
    """The binary32 nearest to a number, as a Python number."""
    with np.errstate(all="ignore"):
        return float(np.float32(value))


def constant(value: float, like: Tensor) -> Tensor:
    """A number without dimensions on a tensor's device."""
    return torch.full((), value, dtype=torch.float32, device=like.device)


def pow2(exponent: Tensor) -> Tensor:
    """2^e for integers -126 <= e <= 127, from its bits."""
    return (exponent.to(torch.int32) + 127).bitwise_left_shift_(23).view(torch.float32)


def divide(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y)


def inverse_(x: Tensor) -> Tensor:
    """1 / x, in its place."""
    return torch.div(constant(1.0, x), x, out=x)


def sqrt(x: Tensor) -> Tensor:
    return x.double().sqrt_().float()


def tree_(x: Tensor) -> Tensor:
    """The sum over the last axis (kept, of size 1); what x held is lost.

    The upper half of x padded with +0 to a power of two is added to the lower half. Adding the padding itself could
    only turn -0 into +0, and the last addition does that."""
    size = x.shape[-1]
    while size > 1:
        half = 1 << ((size - 1).bit_length() - 1)
        x[..., : size - half].add_(x[..., half:size])
        size = half
    return x[..., :1] + 0.0


def tree(x: Tensor) -> Tensor:
    """`tree_` that leaves x as it is."""
    size = x.shape[-1]
    half = 1 << max(0, (size - 1).bit_length() - 1)
    if size != 2 * half:
        return tree_(x.clone())
    return tree_(x[..., :half] + x[..., half:])


def tree_of_rows_(x: Tensor) -> Tensor:
    """The sum over the axis before the last, elementwise; what x held is lost."""
    size = x.shape[-2]
    while size > 1:
        half = 1 << ((size - 1).bit_length() - 1)
        x[..., : size - half, :].add_(x[..., half:size, :])
        size = half
    return x[..., 0, :] + 0.0


def exp_(x: Tensor) -> Tensor:
    """In its place.

    Adding 1.5 * 2^23 + 128 rounds t to an integer, ties to even, and leaves k + 128 in the lowest bits of the sum,
    which shifted are 2^(k + 1). The polynomial is halved for that, which is exact."""
    t = x.mul_(f32(1.4426950408889634)).clamp_(-126.0, 126.0)
    power = t + _TO_INTEGER
    f = t.sub_(power - _TO_INTEGER)
    p = (f * _C6).add_(_C5).mul_(f).add_(_C4).mul_(f).add_(_C3).mul_(f).add_(_C2).mul_(f).add_(_C1).mul_(f).add_(0.5)
    power.view(torch.int32).bitwise_left_shift_(23)
    return torch.mul(p, power, out=x)


def log(x: Tensor) -> Tensor:
    """Of normal positive numbers; a NaN stays one."""
    bits = x.view(torch.int32)
    k = ((bits >> 23) - 127).to(torch.float32)
    m = ((bits & 0x7FFFFF) | 0x3F800000).view(torch.float32)
    large = m > f32(1.41421356)
    m = torch.where(large, m * 0.5, m)
    k = torch.where(large, k + 1.0, k)
    z = divide(m - 1.0, m + 1.0)
    w = z * z
    p = torch.full_like(w, f32(1 / 9))
    for divisor in (7, 5, 3, 1):
        p = p.mul_(w).add_(f32(1 / divisor))
    found = (z * 2.0).mul_(p).add_(k.mul_(f32(0.6931471805599453)))
    return torch.where(torch.isnan(x), x, found)


def sigmoid(x: Tensor) -> Tensor:
    return inverse_(exp_(-x).add_(1.0))


def tanh_(x: Tensor) -> Tensor:
    """In its place."""
    denominator = exp_(x.mul_(2.0)).add_(1.0)
    fraction = torch.div(constant(2.0, x), denominator, out=denominator)
    return torch.sub(constant(1.0, x), fraction, out=fraction)


def erf(x: Tensor) -> Tensor:
    a = x.abs()
    t = inverse_((a * f32(0.3275911)).add_(1.0))
    p = (t * f32(1.061405429)).add_(f32(-1.453152027)).mul_(t).add_(f32(1.421413741))
    p.mul_(t).add_(f32(-0.284496736)).mul_(t).add_(f32(0.254829592))
    tail = p.mul_(t).mul_(exp_((a * a).neg_()))
    r = torch.sub(constant(1.0, x), tail, out=tail)
    return torch.where(x < 0.0, -r, r)


def softcap_(x: Tensor, cap: float) -> Tensor:
    """In its place."""
    return _capped_(x, cap).mul_(f32(cap))


def softcap_slope_(x: Tensor, cap: float) -> Tensor:
    """In its place."""
    u = _capped_(x, cap)
    return torch.sub(constant(1.0, x), u.mul_(u), out=u)


def _capped_(x: Tensor, cap: float) -> Tensor:
    return tanh_(x.mul_(float(np.float32(1) / np.float32(cap))))


NUMBERS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 30}
"""Numbers that go through a long function together, so that they stay in a CPU's cache."""


def in_parts(function: Callable[..., tuple[Tensor, ...]], *arrays: Tensor) -> tuple[Tensor, ...]:
    """An elementwise function of matrices of one shape, some rows at a time."""
    x = arrays[0]
    some = NUMBERS_AT_ONCE[x.device.type] // max(1, x[:1].numel()) or 1
    if len(x) <= some:
        return function(*arrays)
    found = [function(*parts) for parts in zip(*(torch.split(each, some) for each in arrays), strict=True)]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def activation(x: Tensor, kind: Activation) -> Tensor:
    return _FUNCTIONS[kind](x, False)[0]


def activation_and_slope(x: Tensor, kind: Activation) -> tuple[Tensor, Tensor]:
    """(act(x), act'(x))."""
    value, slope = _FUNCTIONS[kind](x, True)
    assert slope is not None
    return value, slope


def _silu(x: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    s = sigmoid(x)
    if not with_slope:
        return s.mul_(x), None
    slope = torch.sub(constant(1.0, x), s).mul_(x).add_(1.0).mul_(s)
    return s.mul_(x), slope


def _gelu(x: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    e = erf(x * f32(0.70710678)).add_(1.0)
    value = (x * 0.5).mul_(e)
    if not with_slope:
        return value, None
    bell = exp_((x * x).mul_(-0.5)).mul_(f32(0.3989423))
    return value, e.mul_(0.5).add_(bell.mul_(x))


def _gelu_tanh(x: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    square = x * x
    half = x * 0.5
    u = tanh_((square * x).mul_(f32(0.044715)).add_(x).mul_(f32(0.79788456)))
    if not with_slope:
        return u.add_(1.0).mul_(half), None
    inner = square.mul_(f32(0.134145)).add_(1.0).mul_(f32(0.79788456))
    second = torch.sub(constant(1.0, x), u * u).mul_(half).mul_(inner)
    u.add_(1.0)
    return half.mul_(u), u.mul_(0.5).add_(second)


def _relu(x: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    value = torch.where(x <= 0.0, 0.0, x)
    if not with_slope:
        return value, None
    return value, torch.where(torch.isnan(x), x, (x > 0.0).to(torch.float32))


_FUNCTIONS: dict[Activation, Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]] = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
}
