"""Products of small integers in torch, exact in every unit: the one thing that a backend's `unit` decides.

| unit | slices are | products | where |
|---|---|---|---|
| int8 | int8 | `torch._int_mm`, int32 sums | CPU, CUDA |
| float32 | binary32 | binary32 sums below 2^24 | CPU, CUDA |
| bf16 | binary32, rounded to bf16 inside (7 bits fit its 8) | binary32 sums | CPUs with bf16 units; float32 elsewhere |
| tf32 | binary32, rounded to TF32 inside (7 bits fit its 11) | binary32 sums | CUDA from Ampere on; float32 elsewhere |
| fp16 | binary16 | `out_dtype=float32`: binary32 sums | CUDA |

`torch._int_mm` on CUDA wants more than 16 rows, columns in eights and a right operand that is stored transposed
(cuBLASLt has no other kernels everywhere: pytorch issues 107671, 169956); all are padded here. On CPUs it takes every
shape, but is silently wrong where a (1, N) right operand has the strides (1, 1) (torch 2.13), so sums of one product
are padded to two. Where a CPU has no VNNI oneDNN adds pairs of products in 16 bits, which 7-bit slices cannot overflow.
Batches of matrices have no int8 product: on CPUs they are multiplied one by one where they are large enough, otherwise
as binary32 (CPU) or binary16 (CUDA).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch.nn.functional import pad

Tensor = torch.Tensor
Unit = Literal["int8", "float32", "bf16", "tf32", "fp16"]
UNITS: dict[str, tuple[Unit, ...]] = {"cpu": ("int8", "float32", "bf16"), "cuda": ("int8", "tf32", "fp16", "float32")}

_LOOP_PAYS = 1 << 15  # products a matrix from which a call of _int_mm each is faster than bmm of floats
_CUDA_ROWS, _CUDA_COLUMNS = 32, 16
_HALF_TO_FLOAT = hasattr(torch.ops.aten.bmm, "dtype")  # since torch 2.8

_FLOAT_PRECISION = {"int8": "highest", "float32": "highest", "bf16": "medium", "tf32": "high", "fp16": "highest"}


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """torch's precision of float32 products, which is global, for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Integers:
    """Exact products of integers of 7 bits, at most 512 a sum; results are int32 or binary32 tensors of integers."""

    def __init__(self, unit: Unit, device: torch.device) -> None:
        """ValueError for a unit that the device does not have."""
        self.on_cuda = device.type == "cuda"
        has = UNITS.get(device.type, ())
        if unit not in has:
            raise ValueError(f"no unit {unit!r} on {device.type}; its units are {', '.join(has) or 'none'}")
        self.unit = unit
        self.dtype = {"int8": torch.int8, "fp16": torch.float16}.get(unit, torch.float32)
        self._precision = _FLOAT_PRECISION[unit]

    def load(self, stored: Tensor) -> Tensor:
        """Slices that are kept as int8, as the unit takes them."""
        return stored.to(self.dtype)

    def rows(self, a: Tensor, b: Tensor) -> Tensor:
        """(M, N) of a (M, K) and b (N, K)."""
        return self._mm(a, b.t())

    def columns(self, a: Tensor, b: Tensor) -> Tensor:
        """(M, K) of a (M, J) and b (J, K)."""
        return self._mm(a, b)

    def batch_dtype(self, m: int, k: int, n: int) -> torch.dtype:
        """What `batch` takes for products of these sizes."""
        if self.on_cuda:
            return torch.float16 if self.unit in ("int8", "fp16") and _HALF_TO_FLOAT else torch.float32
        return torch.int8 if self.unit == "int8" and m * k * n >= _LOOP_PAYS else torch.float32

    def batch(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, M, N) of a (B, M, K) and b (B, K, N), which are `batch_dtype(M, K, N)`."""
        if a.dtype == torch.float16:
            product: Tensor = torch.bmm(a, b, out_dtype=torch.float32)
            return product
        if a.dtype == torch.int8:
            if a.shape[2] == 1:
                a, b = pad(a, (0, 1)), pad(b, (0, 0, 0, 1))
            out = torch.empty(a.shape[0], a.shape[1], b.shape[2], dtype=torch.int32)
            for one, other, place in zip(a.unbind(), b.unbind(), out.unbind(), strict=True):
                torch._int_mm(one, other, out=place)
            return out
        with float32_products(self._precision):
            return torch.bmm(a, b)

    def _mm(self, a: Tensor, b: Tensor) -> Tensor:
        if self.unit == "int8":
            return self._int_mm(a, b)
        if self.unit == "fp16":
            product: Tensor = torch.mm(a, b, out_dtype=torch.float32)
            return product
        with float32_products(self._precision):
            return torch.mm(a, b)

    def _int_mm(self, a: Tensor, b: Tensor) -> Tensor:
        (m, k), n = a.shape, b.shape[1]
        if not self.on_cuda:
            return torch._int_mm(pad(a, (0, 1)), pad(b.t(), (0, 1)).t()) if k == 1 else torch._int_mm(a, b)
        rows, inner, columns = max(0, _CUDA_ROWS - m), -k % _CUDA_COLUMNS, -n % _CUDA_COLUMNS
        if rows or inner:
            a = pad(a, (0, inner, 0, rows))
        if inner or columns:
            b = pad(b.t(), (0, inner, 0, columns)).t()
        if b.stride(0) != 1 or b.stride(1) % 16 or b.data_ptr() % 16:
            b = b.t().contiguous().t()
        return torch._int_mm(a.contiguous(), b)[:m, :n]
