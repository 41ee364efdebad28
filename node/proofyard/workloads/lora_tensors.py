"""The tensors of a `lora` job by name: adapters, training states, and what they begin with.

`adapter.*` is what is trained, `first.*` and `second.*` are AdamW's moments, `step` counts a round's steps. The chain
of shard 0 carries the round's outer state beside them, unchanged from its first state to its result: `base.*`, the
adapter that the round started from, and, with an outer momentum, `velocity.*`. So whatever the next round starts from
is in the results of this one (with `overlap`, the second one after it in these and those of the round before).
How a job aggregates (docs/federated.md) decides what else a state holds, unchanged as well: `merged.*`, the products
that earlier rounds have left beside the adapter (fedex, flora; also in the result of shard 0), and `rest.*`, the
columns of B that a shard of a smaller rank does not train (ffa, whose A is the seed's and in no state).

Where a round does not wait for all of its shards every chain carries that start, and so does every result: any of them
may be the one that a later round has (`closing`).

With compression chains carry their round's start in key rounds only, and a round rests on the results of all rounds
since the last one. `origin.*` of each chain is what its adapter starts from without what this shard's
results have left out so far: what training leads to, less the origin, is what the result says (`compression.delta`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from proofyard.protocol.closing import since
from proofyard.protocol.manifest import MAX_DEPS, TaskSpec
from proofyard.protocol.types import TaskIndex
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.randomness import uniform
from proofyard.workloads.state import Array, Schema, TensorSpec

STEP = "step"
TRAINED = ("adapter", "first", "second")
OUTER = ("base", "velocity", "merged")
ORIGIN = "origin"
CARRIED = (*OUTER, "rest", ORIGIN)
KEY_ROUNDS = 32
"""With compression chains carry their round's start in one of so many rounds at most."""


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


def trained_schema(params: LoraParams, rank: int) -> dict[str, TensorSpec]:
    """What is trained of an adapter of this rank."""
    schema = adapter_schema(_Shape(params.modules, rank))
    return {name: spec for name, spec in schema.items() if params.averages_a or name.endswith("lora_B")}


def outer_schema(params: LoraParams) -> dict[str, TensorSpec]:
    """What a round starts from, as the chain of shard 0 carries it."""
    whole = trained_schema(params, params.rank)
    velocity = ("velocity",) if params.outer == "nesterov" else ()
    return prefixed_schema(whole, "base", *velocity) | merged_schema(params)


def merged_schema(params: LoraParams) -> dict[str, TensorSpec]:
    """The merged factors; none where a job merges nothing."""
    schema: dict[str, TensorSpec] = {}
    for module, shape in params.modules.items() if params.merges else ():
        schema |= adapter_schema(_Shape({module: shape}, params.merged_rank_of(module)))
    return prefixed_schema(schema, "merged")


def state_schema(params: LoraParams, round_number: int, shard: int) -> Schema:
    """A training state of a shard's task."""
    rank = params.rank_of(shard)
    schema = prefixed_schema(trained_schema(params, rank), *TRAINED) | {STEP: TensorSpec("I64", ())}
    if params.aggregation == "ffa" and rank < params.rank:
        schema |= prefixed_schema(trained_schema(params, params.rank - rank), "rest")
    if params.compression:
        schema |= prefixed_schema(trained_schema(params, rank), ORIGIN)
    return schema | (outer_schema(params) if carries_outer(params, round_number, shard) else merged_schema(params))


def carries_outer(params: LoraParams, round_number: int, shard: int) -> bool:
    """Whether a shard's chain carries what its round started from. Where a round does not wait for all of its shards
    that of shard 0 may be missing, and a late delta is counted from its own round's start."""
    return hands_on(params, shard) and (not params.compression or is_key_round(params, round_number))


def is_key_round(params: LoraParams, round_number: int) -> bool:
    """Whether, with compression, later rounds rest on nothing before this one: what it started from is in its results.
    The first round's start is the seed's, unless the job begins after another one's round."""
    return round_number > 0 and (round_number - params.begun) % key_rounds(params) == 0


def key_rounds(params: LoraParams) -> int:
    """From one key round to the next: as many as have their results in one task's inputs."""
    late = params.closing.late_rounds if params.closing else 0
    return max(1, min(KEY_ROUNDS, MAX_DEPS // params.workers - late)) if params.compression else 1


def first_round(params: LoraParams, round_number: int) -> int:
    """The first of the rounds whose results a round starts from."""
    return params.begun + since(round_number - params.begun, key_rounds(params))


def rested_rounds(params: LoraParams, round_number: int) -> range:
    """The rounds whose results a round starts from. With `overlap` those of the second and third before it: the start
    of the second is in its results, that of the first before it follows with the third."""
    last = max(params.begun, round_number - params.behind)
    first = max(params.begun, last - 2) if params.overlap else first_round(params, round_number)
    return range(min(first, last), last)


def outer_steps(params: LoraParams) -> int:
    """So many outer steps are made one after another, at most, from a start that a result carries."""
    return key_rounds(params) + params.behind


def result_schema(params: LoraParams, shard: int) -> Schema:
    """The result of a shard's task, without compression."""
    trained = prefixed_schema(trained_schema(params, params.rank_of(shard)), "adapter")
    return trained | outer_schema(params) if hands_on(params, shard) else trained


def hands_on(params: LoraParams, shard: int) -> bool:
    """Whether a shard's result has what its chain carries of its round's start; with compression only in key rounds."""
    return not shard or params.closing is not None


def position(params: LoraParams, task: TaskSpec) -> tuple[int, int]:
    """(round, shard) of a task, both counted from 0."""
    return position_of(params, task.index)


def position_of(params: LoraParams, task: TaskIndex) -> tuple[int, int]:
    """The same of a task by its index."""
    number, shard = divmod(task, params.workers)
    return params.begun + number, shard


def task_at(params: LoraParams, round_number: int, shard: int) -> TaskIndex:
    """The task of a shard in a round."""
    return TaskIndex((round_number - params.begun) * params.workers + shard)


def prefixed_schema(schema: Schema, *prefixes: str) -> dict[str, TensorSpec]:
    return {f"{prefix}.{name}": spec for prefix in prefixes for name, spec in schema.items()}


def take(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The tensors under `prefix`, with the prefix cut off."""
    start = prefix + "."
    return {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}


def put(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {f"{prefix}.{name}": array for name, array in tensors.items()}


def outer_of(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What the chain of shard 0 says of its round's start; of other states what is merged."""
    return {name: array for name, array in tensors.items() if name.split(".", 1)[0] in OUTER}


def carried_of(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What no segment of a task changes."""
    return {name: array for name, array in tensors.items() if name.split(".", 1)[0] in CARRIED}


def initial_adapter(params: Adapting, seed: int, round_number: int = 0) -> dict[str, Array]:
    """A uniform in +-1/sqrt(in) (LoRA's Kaiming initialisation) from the job's seed, B zero. `round_number` beyond 0
    gives another A, for adapters that begin anew in every round."""
    adapter: dict[str, Array] = {}
    purpose: tuple[str | int, ...] = ("lora init", seed, round_number) if round_number else ("lora init", seed)
    for name, spec in adapter_schema(params).items():
        if name.endswith("lora_A"):
            values = uniform(spec.count, float(1 / np.sqrt(np.float64(spec.shape[1]))), *purpose, name)
            adapter[name] = values.astype(np.float32).reshape(spec.shape)
        else:
            adapter[name] = np.zeros(spec.shape, np.float32)
    return adapter


def cut(tensors: Mapping[str, Array], first: int, last: int) -> dict[str, Array]:
    """An adapter's ranks from `first` up to `last`: rows of A, columns of B."""
    return {
        name: np.ascontiguousarray(array[first:last] if name.endswith("lora_A") else array[:, first:last])
        for name, array in tensors.items()
    }


def first_state(params: LoraParams, shard: int, outer: Mapping[str, Array]) -> dict[str, Array]:
    """The state that a shard's training begins in; `outer` as in `outer_schema`."""
    base, rank = take(outer, "base"), params.rank_of(shard)
    adapter = cut(base, 0, rank)
    zeros = {name: np.zeros_like(array) for name, array in adapter.items()}
    started = put(adapter, "adapter") | put(zeros, "first") | put(zeros, "second") | {STEP: np.zeros((), np.int64)}
    if params.aggregation == "ffa" and rank < params.rank:
        started |= put(cut(base, rank, params.rank), "rest")
    return started | (dict(outer) if hands_on(params, shard) else put(take(outer, "merged"), "merged"))


def result_of(params: LoraParams, shard: int, last: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors of a task's result from those of its last state."""
    return put(take(last, "adapter"), "adapter") | (outer_of(last) if hands_on(params, shard) else {})


@dataclass(frozen=True)
class _Shape:
    """An adapter's modules and rank."""

    modules: Mapping[str, tuple[int, int]]
    rank: int
