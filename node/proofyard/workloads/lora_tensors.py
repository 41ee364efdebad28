"""The tensors of a `lora` job by name: adapters, training states, and what they begin with.

`adapter.*` is what is trained, `first.*` and `second.*` are AdamW's moments, `step` counts a round's steps. The chain
of shard 0 carries the round's outer state beside them, unchanged from its first state to its result: `base.*`, the
adapter that the round started from, and `velocity.*`, the outer momentum. So whatever the next round starts from is in
the results of this one.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from proofyard.protocol.manifest import TaskSpec
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.randomness import uniform
from proofyard.workloads.state import Array, Schema, TensorSpec

STEP = "step"
TRAINED = ("adapter", "first", "second")
OUTER = ("base", "velocity")


class Adapting(Protocol):
    """What the schema of an adapter follows from."""

    @property
    def modules(self) -> Mapping[str, tuple[int, int]]: ...

    @property
    def rank(self) -> int: ...


def adapter_schema(params: Adapting) -> dict[str, TensorSpec]:
    """The adapter's tensors: `<module>.lora_A` (rank, in) and `<module>.lora_B` (out, rank), all float32."""
    schema = {}
    for module, (out_features, in_features) in params.modules.items():
        schema[f"{module}.lora_A"] = TensorSpec("F32", (params.rank, in_features))
        schema[f"{module}.lora_B"] = TensorSpec("F32", (out_features, params.rank))
    return schema


def state_schema(params: LoraParams, shard: int) -> Schema:
    """A training state of a shard's task."""
    outer = () if shard else OUTER
    return prefixed_schema(adapter_schema(params), *TRAINED, *outer) | {STEP: TensorSpec("I64", ())}


def result_schema(params: LoraParams, shard: int) -> Schema:
    """The result of a shard's task."""
    return prefixed_schema(adapter_schema(params), "adapter", *(() if shard else OUTER))


def position(params: LoraParams, task: TaskSpec) -> tuple[int, int]:
    """(round, shard) of a task, both counted from 0."""
    return divmod(task.index, params.workers)


def prefixed_schema(schema: Schema, *prefixes: str) -> dict[str, TensorSpec]:
    return {f"{prefix}.{name}": spec for prefix in prefixes for name, spec in schema.items()}


def take(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The tensors under `prefix`, with the prefix cut off."""
    start = prefix + "."
    return {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}


def put(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {f"{prefix}.{name}": array for name, array in tensors.items()}


def outer_of(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What a state or result carries of its round's start; nothing but in the chain of shard 0."""
    return {name: array for name, array in tensors.items() if name.split(".", 1)[0] in OUTER}


def initial_adapter(params: LoraParams, seed: int) -> dict[str, Array]:
    """A uniform in +-1/sqrt(in) (LoRA's Kaiming initialisation) from the job's seed, B zero."""
    adapter: dict[str, Array] = {}
    for name, spec in adapter_schema(params).items():
        if name.endswith("lora_A"):
            values = uniform(spec.count, float(1 / np.sqrt(np.float64(spec.shape[1]))), "lora init", seed, name)
            adapter[name] = values.astype(np.float32).reshape(spec.shape)
        else:
            adapter[name] = np.zeros(spec.shape, np.float32)
    return adapter


def first_state(adapter: Mapping[str, Array], outer: Mapping[str, Array]) -> dict[str, Array]:
    """The state that a round's training begins in; `outer` as in `outer_of`."""
    zeros = {name: np.zeros_like(array) for name, array in adapter.items()}
    started = put(adapter, "adapter") | put(zeros, "first") | put(zeros, "second")
    return started | dict(outer) | {STEP: np.zeros((), np.int64)}
