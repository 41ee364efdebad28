"""Exact execution (docs/exact.md) in torch, on CPUs and on CUDA: eager, one IEEE 754 operation a call.

Tensors come from `array` and never require gradients. Operations change none of their arguments; a name that ends in _
in the modules beside this one says that it uses its argument up.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from proofyard.workloads.exact.backend import Activation, AdamStep, AttentionShape, LossShape
from proofyard.workloads.exact.slicing import PRECISIONS, expanded
from proofyard.workloads.exact.torch_attention import Attention
from proofyard.workloads.exact.torch_elementary import (
    activation,
    activation_and_slope,
    constant,
    divide,
    f32,
    in_parts,
    inverse_,
    sqrt,
    tree_,
    tree_of_rows_,
)
from proofyard.workloads.exact.torch_integers import Integers, Unit
from proofyard.workloads.exact.torch_loss import Loss
from proofyard.workloads.exact.torch_slices import (
    Cut,
    Frozen,
    Left,
    batch_over_rows_,
    cut,
    cut_left,
    freeze_one,
    freeze_two,
    over_rows,
    times_rows,
    with_columns,
)

Tensor = torch.Tensor


class TorchBackend:
    """A `Backend` on one device, integer products being done in one unit (torch_integers.py)."""

    def __init__(self, device: str, unit: str, threads: int | None = None) -> None:
        """`threads` are set for all of torch in this process. ValueError for a unit that the device does not have."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        # glibc keeps twice the largest block that was ever freed for the next allocation and gives the rest back to the
        # system, whose fresh pages then cost three times what a product does. Freeing one block without touching it, of
        # just under the 32 MiB that it learns from at most, makes it keep 62 MiB.
        torch.empty(31 << 20, dtype=torch.uint8)
        self.unit = Integers(cast(Unit, unit), self.device)
        self.name = unit if self.device.type == "cpu" else f"{self.device.type}-{unit}"

    def array(self, values: npt.NDArray[Any]) -> Tensor:
        values = np.ascontiguousarray(values)
        return torch.from_numpy(values if values.flags.writeable else values.copy()).to(self.device)

    def numpy(self, x: Tensor) -> npt.NDArray[Any]:
        return x.contiguous().cpu().numpy()

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def multiply(self, x: Tensor, factor: float) -> Tensor:
        return x * f32(factor)

    def transpose(self, x: Tensor) -> Tensor:
        return x.t().contiguous()

    def columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        return x[:, start:stop].contiguous()

    def beside(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=1)

    def freeze(self, weight: npt.NDArray[Any], precision: str) -> Frozen:
        if precision not in PRECISIONS:
            raise ValueError(f"no precision {precision!r}: known are {', '.join(PRECISIONS)}")
        with np.errstate(all="ignore"):
            values = self.array(expanded(np.asarray(weight, np.float32), precision))
        frozen = freeze_one(values) if precision == "exact8" else freeze_two(values)
        return with_columns(frozen) if self.unit.on_cuda and self.unit.unit == "int8" else frozen

    def slice(self, x: Tensor) -> Left:
        return cut_left(x, self.unit)

    def linear(self, x: Left, weight: Frozen, bias: Tensor | None = None) -> Tensor:
        y = times_rows(x, weight, self.unit)
        return y if bias is None else y.add_(bias)

    def linear_back(self, g: Tensor, weight: Frozen) -> Tensor:
        return over_rows(g, weight, self.unit)

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        return times_rows(self.slice(x), cut(y).to(self.unit.dtype), self.unit)

    def product_over_rows(self, x: Tensor, y: Tensor) -> Tensor:
        return over_rows(x, cut(y).to(self.unit.dtype), self.unit)

    def sum_rows(self, x: Tensor, y: Tensor, lengths: Sequence[int], onto: Tensor | None = None) -> Tensor:
        right = cut(y)
        scaled = x * right.scale
        total = None if onto is None else onto.clone()
        for part in self._sequence_sums_(scaled, right, lengths):
            total = part if total is None else total.add_(part)
        return x.new_zeros(x.shape[1], y.shape[1]) if total is None else total

    def _sequence_sums_(self, scaled: Tensor, right: Cut, lengths: Sequence[int]) -> list[Tensor]:
        """product_over_rows of each sequence with rows; all at once where equally long. `scaled` is used up."""
        spans = [slice(start, end) for start, end in pairwise(accumulate(lengths, initial=0)) if end > start]
        if len({span.stop - span.start for span in spans}) == 1:
            stacked = Cut(*(part.view(len(spans), -1, part.shape[1]) for part in (right.hi, right.lo, right.scale)))
            x = scaled.view(len(spans), -1, scaled.shape[1])
            return list(batch_over_rows_(x, stacked, self.unit, transposed=True))
        return [
            batch_over_rows_(
                scaled[span].unsqueeze(0),
                Cut(right.hi[span].unsqueeze(0), right.lo[span].unsqueeze(0), right.scale[span].unsqueeze(0)),
                self.unit,
                transposed=True,
            )[0]
            for span in spans
        ]

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return (x * _root(x, eps)).mul_(weight)

    def rms_norm_back(self, g: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        r = _root(x, eps)
        gw = g * weight
        c = tree_(gw * x).mul_(f32(1 / x.shape[1]))
        return gw.mul_(r).sub_(x * (r * r).mul_(r).mul_(c))

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        d = self.centre(x)
        return (d * _root(d, eps)).mul_(weight).add_(bias)

    def centre(self, x: Tensor) -> Tensor:
        return x - tree_(x.clone()).mul_(f32(1 / x.shape[1]))

    def unit_length(self, x: Tensor) -> Tensor:
        squares = tree_(x * x)
        return torch.where(squares < 2.0**-100, x, x * inverse_(sqrt(squares)))

    def pool_mean(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        padded = x.new_zeros(len(lengths), max(lengths), x.shape[1])
        for i, (start, end) in enumerate(pairwise(accumulate(lengths, initial=0))):
            padded[i, : end - start] = x[start:end]
        shares = self.array(np.array([f32(1 / length) for length in lengths], np.float32))
        return tree_of_rows_(padded).mul_(shares[:, None])

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
        half = cos.shape[1]
        out = torch.empty_like(x)
        heads, turned = x.view(len(x), -1, 2, half), out.view(len(x), -1, 2, half)
        a, b, c, s = heads[:, :, 0], heads[:, :, 1], cos[:, None], sin[:, None]
        if back:
            torch.add(a * c, b * s, out=turned[:, :, 0])
            torch.sub(b * c, a * s, out=turned[:, :, 1])
        else:
            torch.sub(a * c, b * s, out=turned[:, :, 0])
            torch.add(b * c, a * s, out=turned[:, :, 1])
        return out

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, kv_heads: int, shape: AttentionShape) -> Tensor:
        return Attention(self.unit, heads, kv_heads, shape).forward(q, k, v)

    def attention_back(
        self, g: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, kv_heads: int, shape: AttentionShape
    ) -> tuple[Tensor, Tensor, Tensor]:
        return Attention(self.unit, heads, kv_heads, shape).backward(g, q, k, v)

    def activate(self, x: Tensor, kind: Activation) -> Tensor:
        return in_parts(lambda x: (activation(x, kind),), x)[0]

    def gated(self, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
        return in_parts(lambda gate, up: (activation(gate, kind).mul_(up),), gate, up)[0]

    def gated_back(self, g: Tensor, gate: Tensor, up: Tensor, kind: Activation) -> tuple[Tensor, Tensor]:
        def back(g: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, ...]:
            value, slope = activation_and_slope(gate, kind)
            return (g * up).mul_(slope), value.mul_(g)

        dgate, dup = in_parts(back, g, gate, up)
        return dgate, dup

    def losses(self, x: Tensor, head: Frozen, targets: npt.NDArray[Any], shape: LossShape) -> npt.NDArray[Any]:
        return self.numpy(Loss(self.unit, head, shape).forward(x, self._targets(targets)))

    def losses_back(
        self, x: Tensor, head: Frozen, targets: npt.NDArray[Any], scale: float, shape: LossShape
    ) -> tuple[npt.NDArray[Any], Tensor]:
        nll, dx = Loss(self.unit, head, shape).backward(x, self._targets(targets), scale)
        return self.numpy(nll), dx

    def _targets(self, targets: npt.NDArray[Any]) -> Tensor:
        return self.array(np.asarray(targets, np.int64))

    def square_sum(self, x: Tensor) -> float:
        return float(tree_((x * x).view(-1)))

    def adamw(
        self, p: Tensor, g: Tensor, m: Tensor, v: Tensor, factor: float, step: AdamStep
    ) -> tuple[Tensor, Tensor, Tensor]:
        g = g * f32(factor)
        m = (m * f32(step.beta1)).add_(g * f32(step.rest1))
        v = (v * f32(step.beta2)).add_((g * f32(step.rest2)).mul_(g))
        spread = sqrt(divide(v, constant(f32(step.correction2), v))).add_(f32(step.eps))
        p = (p * f32(step.keep)).sub_(divide(m * f32(step.rate), spread))
        return p.add_(0.0), m.add_(0.0), v.add_(0.0)

    def finite(self, x: Tensor) -> bool:
        return bool(torch.isfinite(x).all())


def _root(x: Tensor, eps: float) -> Tensor:
    """1 / the root mean square of each row, (R, 1)."""
    return inverse_(sqrt(tree_(x * x).mul_(f32(1 / x.shape[1])).add_(f32(eps))))
