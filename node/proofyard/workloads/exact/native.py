"""The C backend: `native.c`, compiled for this machine when it is first needed.

A C compiler is not a dependency: where there is none, or where it makes something that does not reproduce the golden
vectors, other backends do the same work slower. Contraction and every other liberty with IEEE 754 is switched off.
"""

import ctypes
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from proofyard.runtime import compiling
from proofyard.workloads.exact.backend import Activation, AdamStep, AttentionShape, LossShape
from proofyard.workloads.exact.slicing import expanded

Array = npt.NDArray[Any]

SOURCE = Path(__file__).with_name("native.c")
MACHINES = {"native": "native", "native-avx2": "x86-64-v3", "native-sse": "x86-64"}
"""Backend name to the instruction set that it is compiled for; all but the first are for tests."""
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")

_KINDS: dict[Activation, int] = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
_LAYOUT: tuple[Literal["C"], Literal["A"]] = ("C", "A")
_COUNT, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


_built: dict[str, Path] = {}


def build(machine: str, folder: Path | None = None) -> Path:
    """The shared library for an instruction set, compiled once and kept in this user's cache. Raises `NoCompiler`."""
    if folder is None and machine in _built:
        return _built[machine]
    return compiling.build("exact", SOURCE, (*FLAGS, f"-march={machine}"), ("-lm",), folder=folder)


def use_built(name: str, library: Path) -> None:
    """Have the backend `name` use a library that was compiled before: in the sandbox there is no compiler."""
    _built[MACHINES[name]] = library


class _Handle:
    """Memory of the library, released with this object."""

    def __init__(self, pointer: int, release: Any) -> None:
        self.pointer = pointer
        weakref.finalize(self, release, pointer).atexit = False


class FrozenMatrix(_Handle):
    """A packed weight matrix (outputs, inputs)."""

    def __init__(self, pointer: int, release: Any, outputs: int, inputs: int) -> None:
        super().__init__(pointer, release)
        self.outputs, self.inputs = outputs, inputs


class SlicedRows(_Handle):
    """A sliced left operand of `rows` rows."""

    def __init__(self, pointer: int, release: Any, rows: int) -> None:
        super().__init__(pointer, release)
        self.rows = rows


class NativeBackend:
    """`Backend` on numpy arrays. Raises `NoCompiler`."""

    def __init__(self, name: str = "native", threads: int = 1) -> None:
        self.name = name
        # Read once by OpenMP's runtime: threads that spin while they wait would take each other's core.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        self._c = ctypes.CDLL(str(build(MACHINES[name])))
        for function in ("pf_freeze", "pf_slice"):
            getattr(self._c, function).restype = _POINTER
        for function in ("pf_release", "pf_release_slices"):
            getattr(self._c, function).argtypes = [_POINTER]
        self._c.pf_square_sum.restype = _FLOAT
        self._c.pf_start(ctypes.c_int(threads))

    def array(self, values: Array) -> Array:
        kind = np.float32 if values.dtype.kind == "f" else values.dtype
        return np.require(values, kind, _LAYOUT)

    def numpy(self, x: Array) -> Array:
        return x

    def add(self, x: Array, y: Array) -> Array:
        out = np.empty_like(x)
        rows, cols = (x.shape[0], x.size // max(1, x.shape[0])) if x.ndim > 1 else (1, x.size)
        self._call("pf_add", x, y, rows, cols, ctypes.c_int(y.size != x.size), out)
        return out

    def multiply(self, x: Array, factor: float) -> Array:
        out = np.empty_like(x)
        self._call("pf_multiply", x, _FLOAT(factor), x.size, out)
        return out

    def transpose(self, x: Array) -> Array:
        return np.ascontiguousarray(x.T)

    def columns(self, x: Array, start: int, stop: int) -> Array:
        return np.ascontiguousarray(x[:, start:stop])

    def beside(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts, axis=1)

    def freeze(self, weight: Array, precision: str) -> FrozenMatrix:
        values = np.require(expanded(weight, precision), np.float32, _LAYOUT)
        outputs, inputs = values.shape
        pointer = self._call("pf_freeze", values, outputs, inputs, ctypes.c_int(precision != "exact8"))
        return FrozenMatrix(pointer, self._c.pf_release, outputs, inputs)

    def slice(self, x: Array) -> SlicedRows:
        pointer = self._call("pf_slice", x, x.shape[0], x.shape[1])
        return SlicedRows(pointer, self._c.pf_release_slices, x.shape[0])

    def linear(self, x: SlicedRows, weight: FrozenMatrix, bias: Array | None = None) -> Array:
        out = np.empty((x.rows, weight.outputs), np.float32)
        self._call("pf_linear", x, weight, bias, out)
        return out

    def linear_back(self, g: Array, weight: FrozenMatrix) -> Array:
        out = np.empty((g.shape[0], weight.inputs), np.float32)
        self._call("pf_linear_back", g, g.shape[0], weight, out)
        return out

    def product(self, x: Array, y: Array) -> Array:
        out = np.empty((x.shape[0], y.shape[0]), np.float32)
        self._call("pf_product", x, x.shape[0], y, y.shape[0], y.shape[1], ctypes.c_int(0), out)
        return out

    def product_over_rows(self, x: Array, y: Array) -> Array:
        out = np.empty((x.shape[0], y.shape[1]), np.float32)
        self._call("pf_product", x, x.shape[0], y, y.shape[0], y.shape[1], ctypes.c_int(1), out)
        return out

    def sum_rows(self, x: Array, y: Array, lengths: Sequence[int], onto: Array | None = None) -> Array:
        out = np.empty((x.shape[1], y.shape[1]), np.float32) if onto is None else onto.copy()
        added = ctypes.c_int(onto is not None)
        self._call("pf_sum_rows", x, x.shape[1], y, y.shape[1], _counts(lengths), len(lengths), added, out)
        return out

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        out = np.empty_like(x)
        rows, n = x.shape
        self._call("pf_rms_norm", x, weight, rows, n, _FLOAT(1 / n), _FLOAT(eps), out)
        return out

    def rms_norm_back(self, g: Array, x: Array, weight: Array, eps: float) -> Array:
        out = np.empty_like(x)
        rows, n = x.shape
        self._call("pf_rms_norm_back", g, x, weight, rows, n, _FLOAT(1 / n), _FLOAT(eps), out)
        return out

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        out = np.empty_like(x)
        rows, n = x.shape
        self._call("pf_layer_norm", x, weight, bias, rows, n, _FLOAT(1 / n), _FLOAT(eps), out)
        return out

    def centre(self, x: Array) -> Array:
        out = np.empty_like(x)
        rows, n = x.shape
        self._call("pf_centre", x, rows, n, _FLOAT(1 / n), out)
        return out

    def unit_length(self, x: Array) -> Array:
        out = np.empty_like(x)
        self._call("pf_unit_length", x, x.shape[0], x.shape[1], out)
        return out

    def pool_mean(self, x: Array, lengths: Sequence[int]) -> Array:
        out = np.empty((len(lengths), x.shape[1]), np.float32)
        parts = np.array([1 / length for length in lengths], np.float32)
        self._call("pf_pool_mean", x, _counts(lengths), len(lengths), x.shape[1], parts, out)
        return out

    def rotate(self, x: Array, cos: Array, sin: Array, *, back: bool = False) -> Array:
        out = np.empty_like(x)
        rows, d = x.shape[0], 2 * cos.shape[1]
        self._call("pf_rotate", x, cos, sin, rows, x.shape[1] // d, d, ctypes.c_int(back), out)
        return out

    def attention(self, q: Array, k: Array, v: Array, heads: int, kv_heads: int, shape: AttentionShape) -> Array:
        out = np.empty_like(q)
        self._call("pf_attention", q, k, v, *_attention(q, heads, kv_heads, shape), out)
        return out

    def attention_back(
        self, g: Array, q: Array, k: Array, v: Array, heads: int, kv_heads: int, shape: AttentionShape
    ) -> tuple[Array, Array, Array]:
        dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
        self._call("pf_attention_back", g, q, k, v, *_attention(q, heads, kv_heads, shape), dq, dk, dv)
        return dq, dk, dv

    def activate(self, x: Array, kind: Activation) -> Array:
        out = np.empty_like(x)
        self._call("pf_activate", x, x.size, ctypes.c_int(_KINDS[kind]), out)
        return out

    def gated(self, gate: Array, up: Array, kind: Activation) -> Array:
        out = np.empty_like(gate)
        self._call("pf_gated", gate, up, gate.size, ctypes.c_int(_KINDS[kind]), out)
        return out

    def gated_back(self, g: Array, gate: Array, up: Array, kind: Activation) -> tuple[Array, Array]:
        dgate, dup = np.empty_like(gate), np.empty_like(up)
        self._call("pf_gated_back", g, gate, up, gate.size, ctypes.c_int(_KINDS[kind]), dgate, dup)
        return dgate, dup

    def losses(self, x: Array, head: FrozenMatrix, targets: Array, shape: LossShape) -> Array:
        return self._losses(x, head, targets, 0.0, shape, None)

    def losses_back(
        self, x: Array, head: FrozenMatrix, targets: Array, scale: float, shape: LossShape
    ) -> tuple[Array, Array]:
        dx = np.empty_like(x)
        return self._losses(x, head, targets, scale, shape, dx), dx

    def _losses(
        self, x: Array, head: FrozenMatrix, targets: Array, scale: float, shape: LossShape, dx: Array | None
    ) -> Array:
        nll = np.empty(x.shape[0], np.float32)
        cap = shape.softcap
        factors = map(_FLOAT, (shape.multiplier, cap, 1 / cap if cap else 0.0, scale))
        self._call("pf_losses", x, x.shape[0], x.shape[1], head, _counts(targets), *factors, nll, dx)
        return nll

    def square_sum(self, x: Array) -> float:
        return float(self._call("pf_square_sum", x, x.size))

    def adamw(
        self, p: Array, g: Array, m: Array, v: Array, factor: float, step: AdamStep
    ) -> tuple[Array, Array, Array]:
        scalars = (step.beta1, step.beta2, step.rest1, step.rest2, step.correction2, step.rate, step.keep, step.eps)
        p, m, v = p.copy(), m.copy(), v.copy()
        self._call("pf_adamw", p, g, m, v, p.size, _FLOAT(factor), np.array(scalars, np.float32))
        return p, m, v

    def finite(self, x: Array) -> bool:
        return bool(self._call("pf_finite", x, x.size))

    def _call(self, function: str, *arguments: Any) -> Any:
        return getattr(self._c, function)(*map(_argument, arguments))


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous and value.flags.aligned, "the library reads rows as they are"
        assert value.dtype in (np.float32, np.int64)
        return _POINTER(value.ctypes.data)
    if isinstance(value, _Handle):
        return _POINTER(value.pointer)
    if value is None:
        return _POINTER(0)
    return _COUNT(value) if isinstance(value, int) else value


def _counts(values: Any) -> Array:
    return np.ascontiguousarray(values, np.int64)


def _attention(q: Array, heads: int, kv_heads: int, shape: AttentionShape) -> tuple[Any, ...]:
    cap = shape.softcap
    return (
        heads,
        kv_heads,
        q.shape[1] // heads,
        _counts(shape.queries),
        _counts(shape.keys),
        len(shape.queries),
        ctypes.c_int(shape.causal),
        shape.window,
        _FLOAT(shape.scale),
        _FLOAT(cap),
        _FLOAT(1 / cap if cap else 0.0),
    )
