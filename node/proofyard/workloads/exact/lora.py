"""Linear layers with a LoRA adapter beside them (arXiv 2106.09685), forwards and backwards: docs/exact.md, LoRA."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.backend import Array, Backend, Frozen, Sliced
from proofyard.workloads.exact.weights import Weights


@dataclass
class Adapter:
    """A (rank, in) and B (out, rank) of one layer, their gradients so far, and the factor c = alpha / rank."""

    a: Array
    b: Array
    factor: float
    da: Array | None = None
    dbt: Array | None = None


class Linear:
    """One linear layer: frozen weights (out, in), an optional bias (out,), an optional adapter.

    `name` is the module's, `stored` that of its tensors where it differs; `transposed` weights are stored (in, out).
    """

    def __init__(
        self,
        backend: Backend,
        weights: Weights,
        name: str,
        shape: tuple[int, int],
        precision: str,
        *,
        stored: str = "",
        transposed: bool = False,
    ) -> None:
        self._backend = backend
        self.name, self.shape, self.transposed = name, shape, transposed
        self.stored = stored = stored or name
        matrix = weights.tensor(f"{stored}.weight", shape[::-1] if transposed else shape)
        self.frozen: Frozen = backend.freeze(np.ascontiguousarray(matrix.T) if transposed else matrix, precision)
        bias = f"{stored}.bias"
        self._bias = backend.array(weights.tensor(bias, shape[:1])) if bias in weights else None
        self.adapter: Adapter | None = None

    def forward(self, x: Array, sliced: Sliced) -> tuple[Array, Array | None]:
        """(y, low): y (R, out), and the adapter's inner product (R, rank), which the backward pass needs."""
        y = self._backend.linear(sliced, self.frozen, self._bias)
        if self.adapter is None:
            return y, None
        low = self._backend.product(x, self.adapter.a)
        return self._backend.add(
            y, self._backend.multiply(self._backend.product(low, self.adapter.b), self.adapter.factor)
        ), low

    def backward(
        self, g: Array, x: Array | None, low: Array | None, lengths: Sequence[int], *, wants_input: bool = True
    ) -> Array | None:
        """dx (R, in) of g (R, out); the adapter's gradients are added to what it has. `x` is only needed with one."""
        be, adapter = self._backend, self.adapter
        dx = be.linear_back(g, self.frozen) if wants_input else None
        if adapter is None:
            return dx
        assert x is not None and low is not None, "an adapter's gradients need its inputs"
        scaled = be.multiply(g, adapter.factor)
        dlow = be.product_over_rows(scaled, adapter.b)
        adapter.dbt = be.sum_rows(low, scaled, lengths, adapter.dbt)
        adapter.da = be.sum_rows(dlow, x, lengths, adapter.da)
        return None if dx is None else be.add(dx, be.product_over_rows(dlow, adapter.a))


class Adapters:
    """The adapters of one job, set from and read as the tensors of a state."""

    def __init__(self, backend: Backend, layers: Mapping[str, Linear], modules: Mapping[str, tuple[int, int]]) -> None:
        self._backend = backend
        for name, shape in modules.items():
            if name not in layers:
                raise InputRefused(
                    "the model", f"has no linear layer {name}, which the manifest's params.modules names"
                )
            if layers[name].shape != tuple(shape):
                found = layers[name].shape
                raise InputRefused("the model", f"has {found} features at {name}, params.modules says {tuple(shape)}")
        self._layers = {name: layers[name] for name in sorted(modules)}

    def set(self, tensors: Mapping[str, Array], factor: float) -> None:
        """Take over an adapter under the names of a state, numpy's or the backend's arrays; gradients are cleared. An
        empty mapping means none."""
        for name, layer in self._layers.items():
            layer.adapter = None
            if tensors:
                a, b = (self._own(tensors[f"{name}.lora_{kind}"]) for kind in "AB")
                layer.adapter = Adapter(a, b, factor)

    def _own(self, values: Array) -> Array:
        return self._backend.array(np.array(values)) if isinstance(values, np.ndarray) else values

    def gradients(self) -> dict[str, Array]:
        """The gradients so far, by the names of a state, in their order."""
        found: dict[str, Array] = {}
        for name, layer in self._layers.items():
            adapter = layer.adapter
            assert adapter is not None and adapter.da is not None and adapter.dbt is not None, "backward has not run"
            found[f"{name}.lora_A"] = adapter.da
            found[f"{name}.lora_B"] = self._backend.transpose(adapter.dbt)
        return found
