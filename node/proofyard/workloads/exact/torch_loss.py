"""The loss over a vocabulary (docs/exact.md) on torch tensors, in blocks of rows: never all logits in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from proofyard.workloads.exact.backend import LossShape
from proofyard.workloads.exact.torch_elementary import exp_, f32, inverse_, log, softcap_, softcap_slope_, tree, tree_
from proofyard.workloads.exact.torch_integers import Integers
from proofyard.workloads.exact.torch_slices import (
    Cut,
    Frozen,
    Sums,
    add_blocks_,
    block_sums,
    cut_,
    cut_left,
    times_rows,
)

Tensor = torch.Tensor

DZ_BLOCK = 128


@dataclass(frozen=True)
class Sizes:
    """What is done at once; no result depends on it."""

    rows: int  # whose logits are in memory together
    logits: int  # that go through the elementwise operations together, so that they stay in a CPU's cache
    columns: int  # of the vocabulary in one product, so that its integer sums stay in a CPU's cache
    gradient_rows: int  # whose sliced dz is in memory together


SIZES = {"cpu": Sizes(128, 1 << 18, 4096, 512), "cuda": Sizes(512, 1 << 25, 1 << 16, 512)}


@dataclass(frozen=True)
class Loss:
    """The operation for one unit, output layer (vocabulary, n) and shape."""

    unit: Integers
    head: Frozen
    shape: LossShape

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        """(R,) nll of hidden states (R, n)."""
        z = self._space(x)
        nll = [x.new_zeros(0), *(self._few(part, targets[at])[0] for at, part in self._logits(x, z))]
        return torch.cat(nll)

    def backward(self, x: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """(nll (R,), dx (R, n))."""
        z, nll, dx = self._space(x), [x.new_zeros(0)], [x.new_zeros(0, x.shape[1])]
        for first, some in _counted(x, SIZES[x.device.type].gradient_rows):
            slices = DzSlices(len(some), self.head, self.unit)
            for at, part in self._logits(some, z):
                found, dz = self._few(part, targets[first:][at], scale)
                nll.append(found)
                slices.put_(at, dz)
            dx.append(slices.gradient())
        return torch.cat(nll), torch.cat(dx)

    def _space(self, x: Tensor) -> Tensor:
        """For the logits of some rows; columns behind the vocabulary, up to whole blocks of dz, are +0."""
        vocabulary = len(self.head.scale)
        return x.new_zeros(min(len(x), SIZES[x.device.type].rows), vocabulary + -vocabulary % DZ_BLOCK)

    def _logits(self, x: Tensor, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """product(x, head), a few rows at a time, in z: where they are among x's rows, and they themselves."""
        sizes, vocabulary = SIZES[x.device.type], len(self.head.scale)
        step = max(1, sizes.logits // vocabulary)
        for first, some in _counted(x, sizes.rows):
            left = cut_left(some, self.unit)
            for column in range(0, vocabulary, sizes.columns):
                columns = slice(column, min(vocabulary, column + sizes.columns))
                times_rows(left, self.head.rows(columns), self.unit, out=z[: len(some), columns])
            for start in range(0, len(some), step):
                stop = min(len(some), start + step)
                yield slice(first + start, first + stop), z[start:stop]

    def _few(self, space: Tensor, targets: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
        """(nll, dz) of rows of logits, which are used up; without a scale dz means nothing."""
        z = space[:, : len(self.head.scale)]
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
            return nll, e
        dz = e.mul_(inverse_(total))
        rows = torch.arange(len(z), device=z.device)
        dz[rows, targets] = dz[rows, targets] - 1.0
        dz.mul_(f32(scale))
        if plain is not None:
            dz.mul_(softcap_slope_(plain, self.shape.softcap))
        if self.shape.multiplier != 1.0:
            dz.mul_(f32(self.shape.multiplier))
        return nll, space


class DzSlices:
    """dz times the scales of the output layer's rows, sliced in blocks of 128 columns: (blocks, rows, 128)."""

    def __init__(self, rows: int, head: Frozen, unit: Integers) -> None:
        self._head, self._unit = head, unit
        blocks = -(-len(head.scale) // DZ_BLOCK)
        self._hi = torch.empty(blocks, rows, DZ_BLOCK, dtype=unit.dtype, device=head.scale.device)
        self._lo = torch.empty_like(self._hi)
        self._scale = torch.empty(blocks, rows, 1, device=head.scale.device)

    def put_(self, at: slice, dz: Tensor) -> None:
        """Some rows of dz, with zeros up to whole blocks; dz is used up, except for the zeros."""
        dz[:, : len(self._head.scale)].mul_(self._head.scale)
        part = cut_(dz.view(len(dz), -1, DZ_BLOCK))
        for into, found in ((self._hi, part.hi), (self._lo, part.lo), (self._scale, part.scale)):
            into[:, at].copy_(found.transpose(0, 1))

    def gradient(self) -> Tensor:
        """dx (rows, n)."""
        return add_blocks_(self._sums())

    def _sums(self) -> Iterator[Sums]:
        head, unit = self._head, self._unit
        for number, (hi, lo, scale) in enumerate(zip(self._hi, self._lo, self._scale, strict=True)):
            rows = slice(number * DZ_BLOCK, min(len(head.scale), (number + 1) * DZ_BLOCK))
            width = rows.stop - rows.start
            other = None if head.lo_columns is None else unit.load(head.lo_columns[rows])
            part = Cut(hi[:, :width], lo[:, :width], scale)
            yield block_sums(part, unit.load(head.hi_columns[rows]), other, unit.columns)


def _counted(x: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Some rows at a time, with the number of the first."""
    for start in range(0, len(x), size):
        yield start, x[start : start + size]
