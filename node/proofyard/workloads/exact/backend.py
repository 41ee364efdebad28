"""What a backend of exact execution can do: the operations of docs/exact.md, and nothing else.

Every backend gives the same bits. Arrays are the backend's own (`Array`: numpy's on a CPU, torch's on a device), in
binary32, row-major, one row a token; a model is written once on top of these operations and runs on each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy.typing as npt

Array = Any
Sliced = Any
Frozen = Any

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class AttentionShape:
    """Which keys a batch's queries see. Sequence i has `queries[i]` rows of q and `keys[i]` rows of k and v, its
    queries standing at the end; `window` 0 is none, `softcap` 0 is none."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    scale: float
    causal: bool = True
    window: int = 0
    softcap: float = 0.0


@dataclass(frozen=True)
class LossShape:
    """What happens to logits before the loss: z * `multiplier`, then `softcap` (0 is none), in this order."""

    multiplier: float = 1.0
    softcap: float = 0.0


@dataclass(frozen=True)
class AdamStep:
    """The scalars of one step of AdamW, each rounded to binary32 by the backend: docs/exact.md, Optimiser."""

    beta1: float
    beta2: float
    rest1: float
    rest2: float
    correction2: float
    rate: float
    keep: float
    eps: float


class Backend(Protocol):
    """See docs/exact.md for what each operation computes, to the bit."""

    name: str

    def array(self, values: npt.NDArray[Any]) -> Array:
        """A numpy array (binary32 or int64) as one of the backend's."""

    def numpy(self, x: Array) -> npt.NDArray[Any]:
        """A backend's array as numpy's."""

    def add(self, x: Array, y: Array) -> Array:
        """x + y, or a bias (K,) added to each row."""

    def multiply(self, x: Array, factor: float) -> Array:
        """x times a number rounded to binary32."""

    def transpose(self, x: Array) -> Array:
        """(N, M) of x (M, N)."""

    def columns(self, x: Array, start: int, stop: int) -> Array:
        """x (R, n) from column `start` up to `stop`."""

    def beside(self, parts: Sequence[Array]) -> Array:
        """Arrays of R rows as one, their columns in this order."""

    def freeze(self, weight: npt.NDArray[Any], precision: str) -> Frozen:
        """The slices of a weight matrix (N, K) under a precision; the array may be given up afterwards."""

    def slice(self, x: Array) -> Sliced:
        """The left operand (M, K) of a product, sliced by rows and blocks."""

    def linear(self, x: Sliced, weight: Frozen, bias: Array | None = None) -> Array:
        """(M, N): product(x, weight), plus `bias` (N,)."""

    def linear_back(self, g: Array, weight: Frozen) -> Array:
        """(M, K): product_over_rows(g, weight) for g (M, N)."""

    def product(self, x: Array, y: Array) -> Array:
        """(M, N) of x (M, K) and y (N, K)."""

    def product_over_rows(self, x: Array, y: Array) -> Array:
        """(M, K) of x (M, J) and y (J, K)."""

    def sum_rows(self, x: Array, y: Array, lengths: Sequence[int], onto: Array | None = None) -> Array:
        """(M, K) of x (R, M) and y (R, K): product_over_rows of each sequence's rows, added in order.

        The sum of earlier sequences is given as `onto`, so that a batch may be taken in parts."""

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """(R, n) of x (R, n) and weight (n,). Heads are normed as rows of their own (R * heads, d)."""

    def rms_norm_back(self, g: Array, x: Array, weight: Array, eps: float) -> Array:
        """The gradient of x; r is computed again."""

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array: ...

    def centre(self, x: Array) -> Array:
        """Each row less its mean: what LayerNorm hands to its RMSNorm, and its gradient's last step."""

    def unit_length(self, x: Array) -> Array:
        """Each row scaled to length 1."""

    def pool_mean(self, x: Array, lengths: Sequence[int]) -> Array:
        """(sequences, n): tree over a sequence's rows, elementwise, times 1/length."""

    def rotate(self, x: Array, cos: Array, sin: Array, *, back: bool = False) -> Array:
        """x (R, heads * d) with tables (R, d / 2)."""

    def attention(self, q: Array, k: Array, v: Array, heads: int, kv_heads: int, shape: AttentionShape) -> Array:
        """(R, heads * d) of q (R, heads * d), k and v (R', kv_heads * d)."""

    def attention_back(
        self, g: Array, q: Array, k: Array, v: Array, heads: int, kv_heads: int, shape: AttentionShape
    ) -> tuple[Array, Array, Array]:
        """(dq, dk, dv). P is computed again."""

    def activate(self, x: Array, kind: Activation) -> Array: ...

    def gated(self, gate: Array, up: Array, kind: Activation) -> Array:
        """act(gate) * up."""

    def gated_back(self, g: Array, gate: Array, up: Array, kind: Activation) -> tuple[Array, Array]:
        """(dgate, dup)."""

    def losses(self, x: Array, head: Frozen, targets: npt.NDArray[Any], shape: LossShape) -> npt.NDArray[Any]:
        """(R,) nll in binary32 of hidden states x (R, n) under the output layer `head` (vocabulary, n)."""

    def losses_back(
        self, x: Array, head: Frozen, targets: npt.NDArray[Any], scale: float, shape: LossShape
    ) -> tuple[npt.NDArray[Any], Array]:
        """(nll, dx), `scale` being c of docs/exact.md."""

    def square_sum(self, x: Array) -> float:
        """tree(x * x) of all its numbers in row-major order."""

    def adamw(
        self, p: Array, g: Array, m: Array, v: Array, factor: float, step: AdamStep
    ) -> tuple[Array, Array, Array]:
        """(p, m, v) after one step."""

    def finite(self, x: Array) -> bool:
        """Whether every number is finite."""
