"""The loss over a vocabulary (docs/exact.md) on torch tensors, in blocks of rows: never all logits in memory."""

from dataclasses import dataclass

import torch

from proofyard.workloads.exact.backend import LossShape
from proofyard.workloads.exact.torch_elementary import exp_, f32, inverse_, log, softcap_, softcap_slope_, tree, tree_
from proofyard.workloads.exact.torch_integers import Integers
from proofyard.workloads.exact.torch_slices import Frozen, cut_blocks, over_rows, times_rows

Tensor = torch.Tensor

LOGITS_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 27}


@dataclass(frozen=True)
class Loss:
    """The operation for one unit, output layer (vocabulary, n) and shape."""

    unit: Integers
    head: Frozen
    shape: LossShape

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        """(R,) nll of hidden states (R, n)."""
        parts = [self._rows(*part, None)[0] for part in self._parts(x, targets)]
        return torch.cat(parts) if parts else x.new_zeros(0)

    def backward(self, x: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """(nll (R,), dx (R, n))."""
        nll, dx = x.new_empty(len(x)), torch.empty_like(x)
        start = 0
        for part in self._parts(x, targets):
            stop = start + len(part[0])
            nll[start:stop], dx[start:stop] = self._rows(*part, scale)
            start = stop
        return nll, dx

    def _parts(self, x: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        rows = max(1, LOGITS_AT_ONCE[x.device.type] // self.head.hi.shape[0])
        return list(zip(torch.split(x, rows), torch.split(targets, rows), strict=True))

    def _rows(self, x: Tensor, targets: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        """(nll, dx); dx means nothing without a scale."""
        z = times_rows(cut_blocks(x, self.unit.dtype), self.head, self.unit)
        if self.shape.multiplier != 1.0:
            z.mul_(f32(self.shape.multiplier))
        plain = z.clone() if self.shape.softcap and scale is not None else None
        if self.shape.softcap:
            softcap_(z, self.shape.softcap)
        m = z.amax(1, keepdim=True)
        at_target = z.gather(1, targets[:, None])
        e = exp_(z.sub_(m))
        total = tree_(e) if scale is None else tree(e)
        nll = log(total).add_(m).sub_(at_target)[:, 0]
        if scale is None:
            return nll, x
        dz = e.mul_(inverse_(total))
        rows = torch.arange(len(x), device=x.device)
        dz[rows, targets] = dz[rows, targets] - 1.0
        dz.mul_(f32(scale))
        if plain is not None:
            dz.mul_(softcap_slope_(plain, self.shape.softcap))
        if self.shape.multiplier != 1.0:
            dz.mul_(f32(self.shape.multiplier))
        return nll, over_rows(dz, self.head, self.unit)
