"""Linear layers with a LoRA adapter beside them (arXiv 2106.09685), forwards and backwards: docs/exact.md, LoRA."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.backend import Array, Backend, Frozen, Sliced
from proofyard.workloads.exact.weights import Weights


@dataclass
class Adapter:
    """A (rank, in) and B (out, rank) of one layer, their gradients so far, and the factor c = alpha / rank. A has none
    where it is not trained."""

    a: Array
    b: Array
    factor: float
    trains_a: bool = True
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
        self.kept: Adapter | None = None
        """Factors beside the trained adapter that stay as they are."""

    def forward(self, x: Array, sliced: Sliced) -> tuple[Array, Array | None]:
        """(y, low): y (R, out), and the adapter's inner product (R, rank), which the backward pass needs."""
        y = self._backend.linear(sliced, self.frozen, self._bias)
        if self.kept is not None:
            y = self._beside(y, self._backend.product(x, self.kept.a), self.kept)
        if self.adapter is None:
            return y, None
        low = self._backend.product(x, self.adapter.a)
        return self._beside(y, low, self.adapter), low

    def _beside(self, y: Array, low: Array, adapter: Adapter) -> Array:
        be = self._backend
        return be.add(y, be.multiply(be.product(low, adapter.b), adapter.factor))

    def backward(
        self, g: Array, x: Array | None, low: Array | None, lengths: Sequence[int], *, wants_input: bool = True
    ) -> Array | None:
        """dx (R, in) of g (R, out); the adapter's gradients are added to what it has. `x` is only needed with one."""
        be, adapter = self._backend, self.adapter
        dx = be.linear_back(g, self.frozen) if wants_input else None
        if self.kept is not None and dx is not None:
            dkept = be.product_over_rows(be.multiply(g, self.kept.factor), self.kept.b)
            dx = be.add(dx, be.product_over_rows(dkept, self.kept.a))
        if adapter is None:
            return dx
        assert x is not None and low is not None, "an adapter's gradients need its inputs"
        scaled = be.multiply(g, adapter.factor)
        adapter.dbt = be.sum_rows(low, scaled, lengths, adapter.dbt)
        if not adapter.trains_a and dx is None:
            return None
        dlow = be.product_over_rows(scaled, adapter.b)
        if adapter.trains_a:
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

    def set(
        self,
        tensors: Mapping[str, Array],
        factor: float,
        *,
        trains_a: bool = True,
        kept: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        """Take over an adapter under the names of a state, numpy's or the backend's arrays, and factors that stay as
        they are beside it; gradients are cleared. An empty mapping means none."""
        for name, layer in self._layers.items():
            layer.adapter = self._read(name, tensors, factor, trains_a=trains_a)
            layer.kept = self._read(name, kept, factor)

    def _read(self, name: str, tensors: Mapping[str, Array], factor: float, *, trains_a: bool = True) -> Adapter | None:
        if not tensors:
            return None
        a, b = (self._own(tensors[f"{name}.lora_{kind}"]) for kind in "AB")
        return Adapter(a, b, factor, trains_a)

    def _own(self, values: Array) -> Array:
        return self._backend.array(np.array(values)) if isinstance(values, np.ndarray) else values

    def gradients(self) -> dict[str, Array]:
        """The gradients so far, by the names of a state, in their order."""
        found: dict[str, Array] = {}
        for name, layer in self._layers.items():
            adapter = layer.adapter
            assert adapter is not None and adapter.dbt is not None, "backward has not run"
            if adapter.trains_a:
                assert adapter.da is not None, "backward has not run"
                found[f"{name}.lora_A"] = adapter.da
            found[f"{name}.lora_B"] = self._backend.transpose(adapter.dbt)
        return found
