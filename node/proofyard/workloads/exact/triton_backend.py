"""Exact execution on CUDA with fused kernels (`triton_kernels`): the torch backend, its busy operations replaced.

Slices are int8. Triton comes with torch's CUDA builds for Linux; elsewhere the torch backends stand in.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy.typing as npt
import torch

from proofyard.workloads.exact import triton_kernels as kernels
from proofyard.workloads.exact.backend import Activation, AdamStep, AttentionShape, LossShape
from proofyard.workloads.exact.torch_attention import Attention, Group, Hidden
from proofyard.workloads.exact.torch_backend import TorchBackend
from proofyard.workloads.exact.torch_elementary import f32, softcap_, softcap_slope_
from proofyard.workloads.exact.torch_loss import DZ_BLOCK, Loss
from proofyard.workloads.exact.torch_slices import BLOCK, Cut, Frozen, Left, with_columns
from proofyard.workloads.exact.triton_kernels import launch, power_of_two

Tensor = torch.Tensor

_CHUNK = 1024
_LONGEST = 1 << 14
"""Numbers of a row that one program holds; a longer row's tree is halved down to it first."""
_LOSS_ROWS = 512


class TritonBackend(TorchBackend):
    """A `Backend` on a CUDA device. Kernels are compiled at their first use and kept in the user's cache."""

    def __init__(self, device: str = "cuda") -> None:
        super().__init__(device, "int8")
        self.name = f"{device}-triton"

    def freeze(self, weight: npt.NDArray[Any], precision: str) -> Frozen:
        frozen = super().freeze(weight, precision)
        return frozen if self.unit.on_cuda else with_columns(frozen)

    def slice(self, x: Tensor) -> Left:
        found = cut(x.unsqueeze(0), BLOCK)
        return Left(found.hi[0], found.lo[0], found.scale[0])

    def linear(self, x: Left, weight: Frozen, bias: Tensor | None = None) -> Tensor:
        return multiply(_whole(x), right_rows(weight), bias)[0]

    def linear_back(self, g: Tensor, weight: Frozen) -> Tensor:
        return multiply(cut(g.unsqueeze(0), BLOCK, weight.scale), right_columns(weight))[0]

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        return multiply(cut(x.unsqueeze(0), BLOCK), _turned(cut(y.unsqueeze(0), y.shape[1])))[0]

    def product_over_rows(self, x: Tensor, y: Tensor) -> Tensor:
        right = cut(y.unsqueeze(0), y.shape[1])
        return multiply(cut(x.unsqueeze(0), BLOCK, right.scale.reshape(-1)), Right(right.hi, right.lo))[0]

    def sum_rows(self, x: Tensor, y: Tensor, lengths: Sequence[int], onto: Tensor | None = None) -> Tensor:
        right = cut(y.unsqueeze(0), y.shape[1])
        spans = [slice(start, end) for start, end in pairwise(accumulate(lengths, initial=0)) if end > start]
        alike = len({span.stop - span.start for span in spans}) == 1
        total = None if onto is None else onto.clone()
        for span in [slice(0, len(x))] if alike else spans:
            parts = len(spans) if alike else 1
            some = x[span].view(parts, -1, x.shape[1])
            scale = right.scale[0, span].reshape(parts, -1)
            hi, lo = (slices[0, span].view(parts, -1, y.shape[1]) for slices in (right.hi, right.lo))
            for part in multiply(cut(some.mT, BLOCK, scale), Right(hi, lo)):
                total = part if total is None else total.add_(part)
        return x.new_zeros(x.shape[1], y.shape[1]) if total is None else total

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return _norm(x, weight, weight, eps, CENTRE=False, NORM=True)

    def rms_norm_back(self, g: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, columns = torch.empty_like(x), x.shape[1]
        args = g.contiguous(), x.contiguous(), weight, out, columns, f32(1 / columns), f32(eps)
        launch(kernels.rms_back_kernel, (len(x),), *args, LEVELS=_levels(columns))
        return out

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return _norm(x, weight, bias, eps, CENTRE=True, NORM=True)

    def centre(self, x: Tensor) -> Tensor:
        return _norm(x, x, x, 0.0, CENTRE=True, NORM=False)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
        out, width = torch.empty_like(x), x.shape[1]
        chunk = min(_CHUNK, power_of_two(width // 2))
        grid = (len(x), -(-width // 2 // chunk))
        launch(kernels.rotate_kernel, grid, x.contiguous(), cos, sin, out, width, cos.shape[1], BACK=back, CHUNK=chunk)
        return out

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, kv_heads: int, shape: AttentionShape) -> Tensor:
        return TritonAttention(self.unit, heads, kv_heads, shape).forward(q, k, v)

    def attention_back(
        self, g: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, kv_heads: int, shape: AttentionShape
    ) -> tuple[Tensor, Tensor, Tensor]:
        return TritonAttention(self.unit, heads, kv_heads, shape).backward(g, q, k, v)

    def activate(self, x: Tensor, kind: Activation) -> Tensor:
        return _gated(x, None, kind)

    def gated(self, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
        return _gated(gate, up, kind)

    def gated_back(self, g: Tensor, gate: Tensor, up: Tensor, kind: Activation) -> tuple[Tensor, Tensor]:
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        args = g.contiguous(), gate.contiguous(), up.contiguous(), dgate, dup, gate.numel()
        launch(kernels.gated_back_kernel, (-(-gate.numel() // _CHUNK),), *args, KIND=kind, CHUNK=_CHUNK)
        return dgate, dup

    def losses(self, x: Tensor, head: Frozen, targets: npt.NDArray[Any], shape: LossShape) -> npt.NDArray[Any]:
        return self.numpy(TritonLoss(self.unit, head, shape).forward(x, self._targets(targets)))

    def losses_back(
        self, x: Tensor, head: Frozen, targets: npt.NDArray[Any], scale: float, shape: LossShape
    ) -> tuple[npt.NDArray[Any], Tensor]:
        nll, dx = TritonLoss(self.unit, head, shape).backward(x, self._targets(targets), scale)
        return self.numpy(nll), dx

    def square_sum(self, x: Tensor) -> float:
        flat = x.reshape(-1)
        if len(flat) > _LONGEST:
            flat, half = flat * flat, 1 << ((len(flat) - 1).bit_length() - 1)
            while half >= _LONGEST:
                flat[: len(flat) - half].add_(flat[half:])
                flat, half = flat[:half], half // 2
        out = flat.new_empty(1)
        squares = flat.data_ptr() == x.data_ptr()
        launch(kernels.tree_kernel, (1,), flat, out, len(flat), SQUARES=squares, LEVELS=_levels(len(flat)))
        return float(out)

    def adamw(
        self, p: Tensor, g: Tensor, m: Tensor, v: Tensor, factor: float, step: AdamStep
    ) -> tuple[Tensor, Tensor, Tensor]:
        out = torch.empty_like(p), torch.empty_like(p), torch.empty_like(p)
        scalars = step.beta1, step.rest1, step.beta2, step.rest2, step.correction2, step.rate, step.keep, step.eps
        args = p, g.contiguous(), m, v, *out, p.numel(), f32(factor), *map(f32, scalars)
        launch(kernels.adamw_kernel, (-(-p.numel() // _CHUNK),), *args, CHUNK=_CHUNK)
        return out


class Right(NamedTuple):
    """The right operand of a product, (B or 1, K, N) in any strides, and the scales its columns are multiplied by."""

    hi: Tensor
    lo: Tensor | None
    scale: Tensor | None = None  # (B or 1, N)


def right_rows(weight: Frozen) -> Right:
    """Of product(X, W), W (N, K)."""
    lo = None if weight.lo is None else weight.lo.t().unsqueeze(0)
    return Right(weight.hi.t().unsqueeze(0), lo, weight.scale.unsqueeze(0))


def right_columns(weight: Frozen) -> Right:
    """Of product_over_rows(X, W), W (J, K)."""
    lo = None if weight.lo_columns is None else weight.lo_columns.unsqueeze(0)
    return Right(weight.hi_columns.unsqueeze(0), lo)


class Mask(NamedTuple):
    """Hidden pairs (masks, t, keys), and to which the entries of a batch belong: entry // `per`, rows going round."""

    hidden: Tensor
    per: int
    turned: bool  # rows are keys and columns queries


def cut(x: Tensor, block: int, factor: Tensor | None = None, mask: Mask | None = None) -> Cut:
    """Slices (B, M, K), int8, of x (B, M, K) in any strides, in blocks of `block` columns; scale is (B, M, blocks).

    `factor` (K,) or (B, K) is multiplied to the columns first."""
    batch, rows, columns = x.shape
    block = max(1, block)
    blocks = max(1, -(-columns // block))
    hi = torch.empty(batch, rows, columns, dtype=torch.int8, device=x.device)
    lo, scale = torch.empty_like(hi), torch.empty(batch, rows, blocks, device=x.device)
    factor_batch = columns if factor is not None and factor.dim() == 2 else 0
    hidden, per, period, strides = x, 1, 1, (0, 0, 0)
    if mask is not None:
        hidden, per = mask.hidden.view(torch.uint8), mask.per
        one, t, keys = hidden.stride(0) if len(hidden) > 1 else 0, hidden.shape[1], hidden.shape[2]
        period, strides = (keys, (one, 1, keys)) if mask.turned else (t, (one, keys, 1))
    args = x, x if factor is None else factor, hidden, hi, lo, scale, columns, block, *x.stride(), factor_batch
    constants = {"HAS_FACTOR": factor is not None, "HAS_HIDDEN": mask is not None}
    chunk = min(_CHUNK, power_of_two(min(block, columns)))
    warps = 4 if chunk >= 512 else 1
    launch(
        kernels.cut_kernel, (rows, blocks, batch), *args, per, period, *strides, warps=warps, CHUNK=chunk, **constants
    )
    return Cut(hi, lo, scale)


def multiply(left: Cut, right: Right, bias: Tensor | None = None, block: int = BLOCK) -> Tensor:
    """(B, M, N) of left (B, M, K), sliced in blocks of `block` columns, and right."""
    batch, m, k = left.hi.shape
    n = right.hi.shape[2]
    out = torch.empty(batch, m, n, device=left.scale.device)
    at_right, at_scale = (x.stride(0) if x is not None and len(x) > 1 else 0 for x in (right.hi, right.scale))
    bm, bn = (16 if size <= 16 else 64 for size in (m, n))
    bk = 32 if k <= 32 else 64
    blank = left.scale
    args = (
        *(left.hi, left.lo, left.scale, right.hi, right.hi if right.lo is None else right.lo),
        *(blank if right.scale is None else right.scale, blank if bias is None else bias, out, m, n, k),
        *(left.hi.stride(1), left.hi.stride(0), left.scale.stride(1), left.scale.stride(0)),
        *(right.hi.stride(2), right.hi.stride(1), at_right, at_scale, out.stride(1), out.stride(0)),
    )
    constants = {"HAS_LO": right.lo is not None, "HAS_SCALE": right.scale is not None, "HAS_BIAS": bias is not None}
    grid = (-(-m // bm), -(-n // bn), batch)
    launch(kernels.product_kernel, grid, *args, BLOCK=block, BM=bm, BN=bn, BK=bk, **constants)
    return out


class TritonAttention(Attention):
    """Attention of int8 slices; a soft cap of the scores is left to torch."""

    def _queries(self, x: Tensor, group: Group) -> Cut:
        rows = self.heads.queries(group.query_rows.take(x), group.sequences)
        return cut(rows, rows.shape[2])

    def _keys(self, x: Tensor, group: Group) -> Cut:
        rows = self.heads.keys(group.key_rows.take(x), group.sequences)
        return cut(rows, rows.shape[2])

    def _attend(self, operands: Sequence[Cut], hidden: Hidden | None) -> tuple[Tensor, ...]:
        q, k, v = operands
        return (self._keys_summed(self._probabilities(q, k, hidden)[0], v, hidden),)

    def _attend_back(self, operands: Sequence[Cut], hidden: Hidden | None) -> tuple[Tensor, ...]:
        g, q, k, v = operands
        p, plain = self._probabilities(q, k, hidden)
        ds = multiply(g, _turned(v))
        factor = f32(self.shape.scale) if plain is None else 1.0
        self._pairs_launch(kernels.scores_back_kernel, (p, ds), hidden, factor)
        if plain is not None:
            ds.mul_(softcap_slope_(plain, self.shape.softcap)).mul_(f32(self.shape.scale))
        of_keys, of_values = self._queries_summed(ds, q, hidden), self._queries_summed(p, g, hidden)
        return self._keys_summed(ds, k, hidden), of_keys, of_values

    def _probabilities(self, q: Cut, k: Cut, hidden: Hidden | None) -> tuple[Tensor, Tensor | None]:
        """(P (entries, group * t, keys), the scores before the softcap where there is one)."""
        s, factor, plain = multiply(q, _turned(k)), f32(self.shape.scale), None
        if self.shape.softcap:
            plain = s.mul_(factor)
            s, factor = softcap_(plain.clone(), self.shape.softcap), 1.0
        self._pairs_launch(kernels.probabilities_kernel, (s,), hidden, factor)
        return s, plain

    def _pairs_launch(self, kernel: Any, pairs: tuple[Tensor, ...], hidden: Hidden | None, factor: float) -> None:
        entries, rows, keys = pairs[0].shape
        mask = pairs[0] if hidden is None else hidden.mask.view(torch.uint8)
        each = mask.stride(0) if hidden is not None and len(mask) > 1 else 0
        args = *pairs, mask, keys, rows, factor, rows // self.heads.group, each
        launch(kernel, (rows, entries), *args, HAS_HIDDEN=hidden is not None, LEVELS=_levels(keys))

    def _keys_summed(self, pairs: Tensor, keys: Cut, hidden: Hidden | None) -> Tensor:
        """product_over_rows(pairs, keys): (entries, group * t, d)."""
        mask = None if hidden is None else Mask(hidden.mask[:, 0], 1, turned=False)
        return multiply(cut(pairs, BLOCK, keys.scale[..., 0], mask), Right(keys.hi, keys.lo))

    def _queries_summed(self, pairs: Tensor, queries: Cut, hidden: Hidden | None) -> Tensor:
        """product_over_rows(transpose of pairs, queries), the heads of a group added in order: (entries, keys, d)."""
        group, (entries, rows, length) = self.heads.group, pairs.shape
        t = rows // group
        mask = None if hidden is None else Mask(hidden.mask[:, 0], group, turned=True)
        hi, lo = (slices.view(entries * group, t, -1) for slices in (queries.hi, queries.lo))
        turned = pairs.view(entries * group, t, length).mT
        found = multiply(cut(turned, BLOCK, queries.scale.view(-1, t), mask), Right(hi, lo))
        heads = found.view(entries, group, length, -1)
        total = heads[:, 0]
        for number in range(1, group):
            total = total.add_(heads[:, number])
        return total


def _turned(rows: Cut) -> Right:
    """Rows (B, N, K) as the right operand of product(X, rows)."""
    return Right(rows.hi.mT, rows.lo.mT, rows.scale[..., 0])


class TritonLoss(Loss):
    """The loss of some hundred rows at a time, all their logits in memory."""

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        parts = zip(torch.split(x, _LOSS_ROWS), torch.split(targets, _LOSS_ROWS), strict=True)
        return torch.cat([self._few(self._product(some), some_targets)[0] for some, some_targets in parts])

    def backward(self, x: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        nll, dx = [], []
        for some, some_targets in zip(torch.split(x, _LOSS_ROWS), torch.split(targets, _LOSS_ROWS), strict=True):
            found, dz = self._few(self._product(some), some_targets, scale)
            nll.append(found)
            left = cut(dz.unsqueeze(0), DZ_BLOCK, self.head.scale)
            dx.append(multiply(left, right_columns(self.head), block=DZ_BLOCK)[0])
        return torch.cat(nll), torch.cat(dx)

    def _product(self, x: Tensor) -> Tensor:
        return multiply(cut(x.unsqueeze(0), BLOCK), right_rows(self.head))[0]


def _whole(x: Left) -> Cut:
    return Cut(x.hi.unsqueeze(0), x.lo.unsqueeze(0), x.scale.unsqueeze(0))


def _levels(columns: int) -> int:
    return max(0, (columns - 1).bit_length())


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, **constants: bool) -> Tensor:
    out, columns = torch.empty_like(x), x.shape[1]
    args = x.contiguous(), weight, bias, out, columns, f32(1 / columns), f32(eps)
    launch(kernels.norm_kernel, (len(x),), *args, LEVELS=_levels(columns), **constants)
    return out


def _gated(gate: Tensor, up: Tensor | None, kind: Activation) -> Tensor:
    gate, out = gate.contiguous(), torch.empty(gate.shape, device=gate.device)
    args = gate, gate if up is None else up.contiguous(), out, gate.numel()
    grid = (-(-gate.numel() // _CHUNK),)
    launch(kernels.gated_kernel, grid, *args, KIND=kind, HAS_UP=up is not None, CHUNK=_CHUNK)
    return out
