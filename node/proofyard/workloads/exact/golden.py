"""Golden vectors of exact execution: small cases of every operation whose results' digests are committed.

A backend that reproduces them on a machine may compute there; a node tries its backends at start (`check_backend`).
`golden.json` holds the digests of the numpy reference's results; `scripts/exact_vectors.py` writes it. Inputs come from
Philox's raw stream and exact arithmetic (`randomness.uniform`), so they are the same everywhere, and beside ordinary
numbers they hold what arithmetic goes wrong on: zeros of both signs, subnormals, ties, extremes, infinities and NaN.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.exact.backend import Activation, AdamStep, AttentionShape, Backend, LossShape
from proofyard.workloads.exact.tables import rotary
from proofyard.workloads.randomness import uniform

Numpy = npt.NDArray[Any]
Case = Callable[[Backend], Sequence[Numpy]]

PATH = Path(__file__).with_name("golden.json")
ACTIVATIONS: tuple[Activation, ...] = ("silu", "gelu", "gelu_tanh", "relu")
PRECISIONS = ("exact", "exact8", "exact4")
_NAN = np.uint32(0x7FC00000)

_log = logging.getLogger(__name__)


def digest(arrays: Iterable[Numpy]) -> str:
    """sha256 over dtypes, shapes and bytes, every NaN replaced by 0x7fc00000 and every zero by +0."""
    found = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        if values.dtype == np.float32:
            values = np.where(np.isnan(values), _NAN, (values + np.float32(0)).view(np.uint32)).view(np.float32)
        found.update(f"{array.dtype.name} {list(array.shape)}\n".encode())
        found.update(values.tobytes())
    return found.hexdigest()


@cache
def golden() -> Mapping[str, str]:
    """The committed digests by name of the case."""
    digests: dict[str, str] = json.loads(PATH.read_text())
    return digests


def check_backend(backend: Backend, *, first: bool = False) -> list[str]:
    """The names of the cases of `operations()` that a backend does not reproduce; with `first` at most one.

    A case at which the backend raises an exception is not reproduced either."""
    different: list[str] = []
    for name, case in operations().items():
        if not _reproduced(backend, name, case):
            different.append(name)
            if first:
                break
    return different


def _reproduced(backend: Backend, name: str, case: Case) -> bool:
    try:
        with np.errstate(all="ignore"):  # infinities and NaN are among the inputs
            return digest(case(backend)) == golden()[name]
    except Exception:  # whatever a library or a device raises: this backend is not one for this machine
        _log.debug("backend %s failed at %r", backend.name, name, exc_info=True)
        return False


# -- inputs --------------------------------------------------------------------------------------------------------


def numbers(*shape: int, bound: float = 1.0, of: str = "") -> Numpy:
    """Binary32 numbers uniform in [-bound, bound); another `of` gives others."""
    count = int(np.prod(shape))
    return uniform(count, bound, "golden", of, *shape).astype(np.float32).reshape(shape)


def awkward(rows: int, columns: int, of: str = "", most: float = 3.4e38) -> Numpy:
    """Rows of every kind of finite numbers that a machine may treat in its own way, none larger than `most`."""
    x = numbers(rows, columns, of=of)
    for row, kind in zip(range(rows), _kinds(), strict=False):
        x[row] = kind(x[row])
    x[rows // 2 :: 7] = x[0]  # identical rows
    return np.clip(x, np.float32(-most), np.float32(most))


calm = partial(awkward, most=1e6)  # whose products do not overflow


def _kinds() -> list[Callable[[Numpy], Numpy]]:
    """Each makes a row of its kind from a row in [-1, 1)."""
    f = np.float32

    def mixed(row: Numpy) -> Numpy:
        powers = np.ldexp(f(1), np.arange(len(row)) % 60 - 30).astype(np.float32)
        return row * powers

    def peak(row: Numpy) -> Numpy:
        return np.concatenate([np.full(1, 1e30, np.float32), row[1:]])

    return [
        lambda row: row,
        lambda row: row * f(0),  # +0 and -0
        lambda row: np.rint(row * f(127)) * f(0.5),  # ties
        lambda row: row * f(1e30),
        lambda row: row * f(1e-30),
        lambda row: row * f(1e-40),  # subnormal
        lambda row: np.full_like(row, -0.0),
        mixed,
        peak,
        lambda row: np.full_like(row, 1.0),  # a power of two
        lambda row: np.full_like(row, np.nextafter(f(1), f(0))),  # rounds up to 64 and is clamped
        lambda row: row * f(2.0**-100),  # about the least scale
        lambda row: np.where(row < 0, f(-(2.0**-149)), f(2.0**-149)),
        lambda row: row * f(3.4e38),
    ]


def spoilt(rows: int, columns: int, of: str = "") -> Numpy:
    """Rows of which some hold an infinity or a NaN, and one the largest number."""
    x = numbers(rows, columns, of=of)
    kinds = (None, np.nan, np.inf, -np.inf, np.finfo(np.float32).max)
    for row in range(rows):
        value = kinds[row % len(kinds)]
        if value is not None:
            x[row, (row * 5) % columns] = value
    return x


def line() -> Numpy:
    """(rows, 16): a sweep over the numbers on which functions differ, and special ones."""
    special = (
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1e-30,
        -1e-30,
        1e30,
        -1e30,
        3.4e38,
        -3.4e38,
        np.inf,
        -np.inf,
        np.nan,
        1.0,
        -1.0,
    )
    x = np.concatenate([numbers(n, bound=b) for n, b in ((64, 1.0), (64, 8.0), (48, 100.0), (48, 0.01))])
    return np.concatenate([x, np.array((*special, 88.0), np.float32)]).reshape(-1, 16)


# -- cases ---------------------------------------------------------------------------------------------------------


def _product(x: Numpy, y: Numpy, b: Backend) -> list[Numpy]:
    return [b.numpy(b.product(b.array(x), b.array(y)))]


def _over_rows(x: Numpy, y: Numpy, b: Backend) -> list[Numpy]:
    return [b.numpy(b.product_over_rows(b.array(x), b.array(y)))]


def _sum_rows(x: Numpy, y: Numpy, lengths: Sequence[int], b: Backend) -> list[Numpy]:
    """The sum over all sequences, and over all of them once more onto that."""
    left, right = b.array(x), b.array(y)
    once = b.sum_rows(left, right, lengths)
    first = b.numpy(once).copy()
    return [first, b.numpy(b.sum_rows(left, right, lengths, once))]


def _linear(x: Numpy, weight: Numpy, g: Numpy, precision: str, b: Backend) -> list[Numpy]:
    """A linear layer without and with a bias, and its gradient."""
    frozen, bias = b.freeze(weight.copy(), precision), b.array(numbers(len(weight), of="bias"))
    sliced = b.slice(b.array(x))
    results = b.linear(sliced, frozen), b.linear(sliced, frozen, bias), b.linear_back(b.array(g), frozen)
    return [b.numpy(y) for y in results]


def _elementwise(x: Numpy, y: Numpy, b: Backend) -> list[Numpy]:
    left = b.array(x)
    sums = [b.add(left, b.array(y)), b.add(left, b.array(y[0].copy())), b.transpose(left)]
    return [b.numpy(z) for z in (*sums, *(b.multiply(left, factor) for factor in (0.1, -1.0, 1e-40, 3e38)))]


def _norms(x: Numpy, g: Numpy, eps: float, b: Backend) -> list[Numpy]:
    n = x.shape[1]
    rows, weight, bias = b.array(x), b.array(numbers(n, of="weight")), b.array(numbers(n, of="bias"))
    results = (
        b.rms_norm(rows, weight, eps),
        b.rms_norm_back(b.array(g), rows, weight, eps),
        b.layer_norm(rows, weight, bias, eps),
        b.unit_length(rows),
    )
    return [b.numpy(y) for y in results]


def _centre(x: Numpy, b: Backend) -> list[Numpy]:
    return [b.numpy(b.centre(b.array(x)))]


def _pool(x: Numpy, lengths: Sequence[int], b: Backend) -> list[Numpy]:
    return [b.numpy(b.pool_mean(b.array(x), lengths))]


def _rotate(x: Numpy, theta: float, head_dim: int, b: Backend) -> list[Numpy]:
    cos, sin = (b.array(table[-len(x) :]) for table in rotary(theta, head_dim, 2048))
    return [b.numpy(b.rotate(b.array(x), cos, sin, back=back)) for back in (False, True)]


def _activations(gate: Numpy, up: Numpy, g: Numpy, kind: Activation, b: Backend) -> list[Numpy]:
    x, y = b.array(gate), b.array(up)
    results = b.activate(x, kind), b.gated(x, y, kind), *b.gated_back(b.array(g), x, y, kind)
    return [b.numpy(z) for z in results]


def _attention(
    shape: AttentionShape, heads: int, kv_heads: int, size: int, make: Callable[..., Numpy], b: Backend
) -> list[Numpy]:
    """Attention and its gradient; q, k, v and g come from `make`."""
    rows, keys = sum(shape.queries), sum(shape.keys)
    q, g = (b.array(make(rows, heads * size, of=name)) for name in "qg")
    k, v = (b.array(make(keys, kv_heads * size, of=name)) for name in "kv")
    out = b.attention(q, k, v, heads, kv_heads, shape)
    return [b.numpy(y) for y in (out, *b.attention_back(g, q, k, v, heads, kv_heads, shape))]


def _spoilt_attention(operand: str, value: float, shape: AttentionShape, b: Backend) -> list[Numpy]:
    """Attention in which one number, late in the only sequence, is not finite."""

    def make(rows: int, columns: int, of: str) -> Numpy:
        x = numbers(rows, columns, of=of)
        if of == operand:
            x[rows - 3, 1] = value
        return x

    return _attention(shape, 2, 1, 8, make, b)


def _losses(x: Numpy, weight: Numpy, precision: str, shape: LossShape, b: Backend) -> list[Numpy]:
    head, rows = b.freeze(weight.copy(), precision), b.array(x)
    targets = np.arange(len(x), dtype=np.int64) * 37 % len(weight)
    nll, dx = b.losses_back(rows, head, targets, 1 / 3, shape)
    return [b.losses(rows, head, targets, shape), nll, b.numpy(dx)]


def _square_sum(x: Numpy, b: Backend) -> list[Numpy]:
    return [np.array([b.square_sum(b.array(x))], np.float32), np.array([b.finite(b.array(x))], np.bool_)]


@np.errstate(over="ignore", under="ignore")
def _adamw(scale: float, factor: float, step: AdamStep, b: Backend) -> list[Numpy]:
    """Two steps, the second from the state and with the gradient of the first reversed."""
    shape = (7, 19)
    g = awkward(*shape, of="g") * np.float32(scale)
    p, m = numbers(*shape, of="p"), numbers(*shape, bound=scale, of="m")
    v = numbers(*shape, bound=min(scale, 1e15), of="v") ** 2
    p[0], m[0], v[0] = -0.0, -0.0, 0.0
    state = b.adamw(b.array(p), b.array(g), b.array(m), b.array(v), factor, step)
    first = [b.numpy(x).copy() for x in state]
    again = b.adamw(*(b.array(first[0]), b.array(g[::-1].copy()), b.array(first[1]), b.array(first[2])), factor, step)
    results = [*first, *(b.numpy(x) for x in again)]
    return [*results, *((x == 0) & np.signbit(x) for x in results)]  # a state's zeros have no sign


def _adam_steps() -> dict[str, tuple[float, float, AdamStep]]:
    """Scale of the gradients, clipping factor, step."""

    def at(beta1: float, beta2: float, n: int, lr: float, decay: float, eps: float) -> AdamStep:
        correction1, correction2 = 1 - prod([beta1] * n), 1 - prod([beta2] * n)
        return AdamStep(beta1, beta2, 1 - beta1, 1 - beta2, correction2, lr / correction1, 1 - lr * decay, eps)

    return {
        "first": (1.0, 1.0, at(0.9, 0.999, 1, 1e-3, 0.0, 1e-8)),
        "later": (1.0, 0.3, at(0.9, 0.95, 3, 3e-3, 0.01, 1e-8)),
        "eps 1e-30": (1e-20, 1.0, at(0.9, 0.999, 2, 1e-3, 0.1, 1e-30)),
        "beta2 0": (1.0, 0.7, at(0.8, 0.0, 2, 1.0, 0.0, 1e-30)),
        "rate 0": (1e-3, 1.0, at(0.9, 0.99, 2, 0.0, 0.5, 1e-8)),
        "overflow": (1e25, 1.0, at(0.9, 0.99, 2, 1e3, 0.0, 1e-8)),
    }


def _attention_shapes() -> dict[str, tuple[AttentionShape, int, int, int]]:
    """Shape, heads, key heads, size of a head."""
    return {
        "causal": (AttentionShape((5, 1, 33), (5, 1, 33), 0.25), 2, 2, 16),
        "bidirectional": (AttentionShape((17, 3), (17, 3), 0.25, causal=False), 2, 2, 16),
        "window": (AttentionShape((9, 21), (9, 21), 0.35355338, window=4), 2, 1, 8),
        "grouped": (AttentionShape((7, 11), (7, 11), 0.25), 6, 2, 16),
        "softcap": (AttentionShape((6, 13), (6, 13), 0.5, softcap=0.75), 2, 1, 16),
        "softcap, bidirectional": (AttentionShape((6, 2), (6, 2), 2.0, causal=False, softcap=3.0), 1, 1, 16),
        "cached": (AttentionShape((1, 3, 2), (18, 3, 40), 0.25), 4, 2, 16),
        "cached window": (AttentionShape((1, 5), (18, 9), 0.25, window=6), 2, 2, 16),
        "long": (AttentionShape((70,), (70,), 0.125), 1, 1, 64),
    }


@cache
def operations() -> Mapping[str, Case]:
    """The cases that a node tries, a fraction of a second on a fast backend: each gives results from a backend."""
    return _products() | _layers() | _functions() | _attentions()


def _products() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for rows in (1, 17, 33):
        for columns in (1, 63, 64, 576):
            size = f"{rows} x {columns}"
            cases[f"product {size}"] = partial(_product, numbers(rows, columns), numbers(35, columns, of="w"))
            cases[f"over rows {size}"] = partial(_over_rows, numbers(rows, columns), numbers(columns, 35, of="w"))
    # Slices follow the largest number of a block, whose quarters differ here.
    powers = np.repeat(np.array([1e-2, 1e-4, 1e-1, 1, 1e-3], np.float32), [1024, 1024, 1024, 1024, 1])
    wide = numbers(3, 4097) * powers
    return cases | {
        "product 3 x 4097": partial(_product, wide, numbers(5, 4097, of="w")),
        "over rows 3 x 4097": partial(_over_rows, wide, numbers(4097, 5, of="w")),
        "product awkward": partial(_product, awkward(33, 65), awkward(30, 65, of="w")),
        "product calm": partial(_product, calm(33, 65), calm(30, 65, of="w")),
        "over rows calm": partial(_over_rows, calm(33, 30), calm(30, 65, of="w")),
        "over rows awkward": partial(_over_rows, awkward(33, 30), awkward(30, 65, of="w")),
        "product largest": partial(_product, np.full((2, 4100), -1.0, np.float32), np.full((3, 4100), 1.0, np.float32)),
        "product nan": partial(_product, spoilt(17, 33), numbers(9, 33, of="w")),
        "product by nan": partial(_product, numbers(17, 33), spoilt(9, 33, of="w")),
        "over rows nan": partial(_over_rows, spoilt(17, 9), numbers(9, 33, of="w")),
        "over rows by nan": partial(_over_rows, numbers(17, 9), spoilt(9, 33, of="w")),
        "sum rows": partial(_sum_rows, numbers(33, 8), numbers(33, 40, of="y"), (5, 0, 1, 27)),
        "sum rows awkward": partial(_sum_rows, calm(33, 17), calm(33, 40, of="y"), (20, 13)),
        "sum rows of none": partial(_sum_rows, numbers(0, 8), numbers(0, 5), ()),
        "add and multiply": partial(_elementwise, awkward(15, 33), awkward(15, 33, of="y")),
        "add and multiply nan": partial(_elementwise, spoilt(7, 33), awkward(7, 33, of="y")),
    }


def _layers() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for precision in PRECISIONS:
        for rows, inputs, outputs in ((1, 64, 63), (17, 576, 36), (33, 65, 129)):
            x, w, g = numbers(rows, inputs), numbers(outputs, inputs, of="w"), numbers(rows, outputs, of="g")
            cases[f"linear {precision} {rows} x {inputs}"] = partial(_linear, x, w, g, precision)
        x, w, g = awkward(15, 100), awkward(20, 100, of="w"), awkward(15, 20, of="g")
        cases[f"linear {precision} awkward"] = partial(_linear, x, w, g, precision)
        x, w, g = numbers(4, 100), spoilt(9, 100, of="w"), numbers(4, 9, of="g")
        cases[f"linear {precision} nan"] = partial(_linear, x, w, g, precision)
    for n in (1, 16, 63, 576):
        cases[f"norms {n}"] = partial(_norms, numbers(5, n), numbers(5, n, of="g"), 1e-5)
    return cases | {
        "norms awkward": partial(_norms, awkward(20, 37), awkward(20, 37, of="g"), 1e-12),
        "norms nan": partial(_norms, spoilt(9, 37), numbers(9, 37, of="g"), 1e-6),
        **{f"centre {n}": partial(_centre, numbers(5, n)) for n in (1, 63, 576)},
        "centre awkward": partial(_centre, awkward(20, 37)),
        "centre nan": partial(_centre, spoilt(9, 37)),
        "mean": partial(_pool, awkward(51, 40), (1, 17, 33)),
        "rotary": partial(_rotate, numbers(33, 48), 10000.0, 16),
        "rotary 1000000": partial(_rotate, numbers(17, 64), 1e6, 64),
    }


def _functions() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    x = line()
    for kind in ACTIVATIONS:
        up, g = numbers(*x.shape, of="up"), numbers(*x.shape, of="g")
        cases[f"activation {kind}"] = partial(_activations, x, up, g, kind)
    for rows in (1, 17, 33):
        x, w = numbers(rows, 64, bound=3.0), numbers(259, 64, of="w")
        cases[f"loss {rows}"] = partial(_losses, x, w, "exact", LossShape())
    x, w, flat = numbers(9, 40, bound=5.0), numbers(259, 40, of="w"), np.zeros((2, 40), np.float32)
    cases |= {
        "loss 100": partial(_losses, numbers(100, 16), numbers(40, 16, of="w"), "exact", LossShape()),
        "loss exact8": partial(_losses, x, w, "exact8", LossShape()),
        "loss softcap": partial(_losses, x, w, "exact", LossShape(softcap=3.0)),
        "loss multiplier": partial(_losses, x, w, "exact", LossShape(multiplier=0.3)),
        "loss both": partial(_losses, x, w, "exact", LossShape(multiplier=2.5, softcap=5.0)),
        "loss flat": partial(_losses, flat, w, "exact", LossShape()),
        "loss awkward": partial(_losses, awkward(15, 40), w, "exact", LossShape()),
        "loss nan": partial(_losses, spoilt(6, 40), w, "exact", LossShape(softcap=5.0)),
    }
    for name, x in {
        "1": numbers(1, 1),
        "1000": numbers(10, 100),
        "awkward": awkward(13, 33) * np.float32(1e-12),
    }.items():
        cases[f"square sum {name}"] = partial(_square_sum, x)
    cases["square sum nan"] = partial(_square_sum, spoilt(3, 5))
    return cases | {f"adamw {name}": partial(_adamw, *given) for name, given in _adam_steps().items()}


def _attentions() -> dict[str, Case]:
    cases: dict[str, Case] = {
        f"attention {name}": partial(_attention, *given, numbers) for name, given in _attention_shapes().items()
    }
    causal = AttentionShape((14,), (14,), 0.35355338)
    cases["attention awkward"] = partial(_attention, causal, 2, 1, 8, awkward)
    cases["attention calm"] = partial(_attention, causal, 2, 1, 8, calm)
    window = AttentionShape((9,), (12,), 0.35355338, window=3)
    for operand in "qkvg":
        cases[f"attention nan {operand}"] = partial(_spoilt_attention, operand, np.nan, causal)
        cases[f"attention infinite {operand}"] = partial(_spoilt_attention, operand, np.inf, window)
    return cases


@cache
def large() -> dict[str, Case]:
    """Cases for tests alone: seconds on the reference."""
    long = AttentionShape((300, 2), (300, 4100), 0.125)
    x, w = numbers(9, 64, bound=3.0), numbers(9000, 64, of="w")
    return {
        "product 33 x 9000": partial(_product, awkward(33, 9000), numbers(35, 9000, of="w")),
        "over rows 33 x 9000": partial(_over_rows, awkward(33, 9000), numbers(9000, 35, of="w")),
        "linear exact 17 x 9000": partial(
            _linear, numbers(17, 9000), numbers(33, 9000, of="w"), numbers(17, 33, of="g"), "exact"
        ),
        "sum rows 9000": partial(_sum_rows, numbers(9000, 8), numbers(9000, 33, of="y"), (4100, 4900)),
        "norms 9000": partial(_norms, awkward(15, 9000), numbers(15, 9000, of="g"), 1e-6),
        "loss 9000": partial(_losses, x, w, "exact", LossShape()),
        "loss exact4 9000": partial(_losses, x, w, "exact4", LossShape(softcap=10.0)),
        "attention 4100": partial(_attention, long, 2, 1, 16, numbers),
        "square sum 200000": partial(_square_sum, numbers(200, 1000)),
    }
