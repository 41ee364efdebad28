"""Frozen linear layers in 8 or 4 bits, so that a larger model fits (QLoRA, arXiv 2305.14314).

Only the frozen weights are quantised, when they are loaded; activations, adapters and gradients stay float32. The
weights are expanded again for each product and never kept, in the backward pass as well. Quantising is elementwise and
exact in IEEE arithmetic, so every machine gets the same integers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 64
# The 16 levels of NormalFloat4: quantiles of a normal distribution, scaled to [-1, 1] (QLoRA, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class Int8Linear(nn.Module):
    """Weights as int8 with one scale a row."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.bias = base.bias
        weight = base.weight.detach()
        scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        self.register_buffer("scale", scale)
        self.register_buffer("packed", (weight / scale).round().to(torch.int8))

    def expand(self) -> Tensor:
        """The weights as float32, (out, in)."""
        return self.get_buffer("packed").float() * self.get_buffer("scale")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias


class Nf4Linear(Int8Linear):
    """Weights as NormalFloat4, two to a byte, with one scale for every `BLOCK` of them."""

    def __init__(self, base: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.bias = base.bias
        flat = base.weight.detach().reshape(-1)
        self._count = flat.numel()
        blocks = functional.pad(flat, (0, -self._count % BLOCK)).reshape(-1, BLOCK)
        scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        levels = torch.tensor(NF4, dtype=torch.float32, device=flat.device)
        middles = (levels[1:] + levels[:-1]) / 2
        codes = torch.bucketize((blocks / scale).contiguous(), middles).to(torch.uint8).reshape(-1, 2)
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale)
        self.register_buffer("packed", codes[:, 0] * 16 + codes[:, 1])

    def expand(self) -> Tensor:
        packed = self.get_buffer("packed")
        codes = torch.stack((packed >> 4, packed & 15), dim=1).reshape(-1).int()
        blocks = self.get_buffer("levels")[codes].reshape(-1, BLOCK) * self.get_buffer("scale")
        return blocks.reshape(-1)[: self._count].reshape(self.out_features, self.in_features)


class _FrozenProduct(torch.autograd.Function):
    """x W^T whose backward pass expands W again instead of keeping it."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: Int8Linear) -> Tensor:
        context.layer = layer
        return functional.linear(x, layer.expand())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ context.layer.expand(), None


QUANTIZED: dict[str, type[Int8Linear]] = {"int8": Int8Linear, "nf4": Nf4Linear}


def quantize(model: nn.Module, precision: str, keep: nn.Module | None) -> None:
    """Replace every linear layer of `model` but `keep` (the output layer, which is tied to the embeddings)."""
    kind = QUANTIZED.get(precision)
    if kind is None:
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not keep:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, kind(module))
