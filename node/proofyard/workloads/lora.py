"""LoRA fine-tuning in rounds: workers train on their own shards, their adapters are averaged, and so on.

Task r * (workers + 1) + w trains in round r as worker w; the last task of each round averages. A training state is
the adapter, AdamW's two moments and the number of steps done in this round; batches follow from the seed. An
averaging state holds everything that is averaged, so an auditor needs nothing else. No torch here: see
`lora_runner` for the training itself, `lora_laws` for what every training state obeys.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora_average import AverageRunner, average_schema
from proofyard.workloads.lora_laws import STEP, check_progress, check_training
from proofyard.workloads.lora_params import LoraParams, check_manifest, read_params
from proofyard.workloads.randomness import uniform
from proofyard.workloads.state import Array, Schema, TensorSpec, check_number, decode_state, encode_state, require_last
from proofyard.workloads.workload import Inputs, Resources, SegmentRunner, States

TRAIN, AVERAGE = "train", "average"

__all__ = ["AVERAGE", "STEP", "TRAIN", "WORKLOAD", "LoraWorkload", "adapter_schema", "check_progress"]
__all__ += ["initial_adapter", "position", "prefixed_schema", "put", "read_global", "take", "train_schema"]


def adapter_schema(params: LoraParams) -> dict[str, TensorSpec]:
    """The adapter's tensors: `<module>.lora_A` (rank, in) and `<module>.lora_B` (out, rank), all float32."""
    schema = {}
    for module, (out_features, in_features) in params.modules.items():
        schema[f"{module}.lora_A"] = TensorSpec("F32", (params.rank, in_features))
        schema[f"{module}.lora_B"] = TensorSpec("F32", (out_features, params.rank))
    return schema


def train_schema(params: LoraParams) -> Schema:
    return prefixed_schema(adapter_schema(params), "adapter", "first", "second") | {STEP: TensorSpec("I64", ())}


def prefixed_schema(schema: Schema, *prefixes: str) -> dict[str, TensorSpec]:
    return {f"{prefix}.{name}": spec for prefix in prefixes for name, spec in schema.items()}


def take(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The tensors under `prefix`, with the prefix cut off."""
    start = prefix + "."
    return {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}


def put(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {f"{prefix}.{name}": array for name, array in tensors.items()}


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


def position(params: LoraParams, task: TaskSpec) -> tuple[int, int]:
    """(round, worker) of a task; the averaging task counts as worker `workers`."""
    return divmod(task.index, params.workers + 1)


def read_global(params: LoraParams, seed: int, results: tuple[bytes, ...]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The adapter that a round starts from and the outer velocity: from the previous average, or from the seed."""
    if not results:
        start = initial_adapter(params, seed)
        return start, {name: np.zeros_like(array) for name, array in start.items()}
    tensors = decode_state(results[0], schema=prefixed_schema(adapter_schema(params), "adapter", "velocity"))
    return take(tensors, "adapter"), take(tensors, "velocity")


class LoraWorkload:
    """The workload `lora`."""

    name = "lora"
    exact = True
    arithmetic = True

    def check(self, manifest: Manifest) -> None:
        check_manifest(manifest)

    def graph(self, manifest: Manifest) -> list[TaskSpec]:
        params = check_manifest(manifest)
        tokens = params.task_steps * params.batch * params.seq_len
        tasks: list[TaskSpec] = []
        for number in range(params.rounds):
            first = number * (params.workers + 1)
            before = (TaskIndex(first - 1),) if number else ()
            trained = tuple(TaskIndex(first + worker) for worker in range(params.workers))
            tasks += [
                TaskSpec(
                    index=index,
                    kind=TRAIN,
                    deps=before,
                    segments=params.segments,
                    work_units=tokens,
                    label=f"round {number + 1}, shard {worker + 1}",
                )
                for worker, index in enumerate(trained)
            ]
            tasks.append(
                TaskSpec(
                    index=TaskIndex(first + params.workers),
                    kind=AVERAGE,
                    deps=(*trained, *before),
                    work_units=max(1, tokens // 100),
                    label=f"round {number + 1}, average",
                )
            )
        return tasks

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        params = read_params(manifest)
        if len(inputs.results) != len(task.deps):
            raise StateRefused(f"task {task.index} has {len(task.deps)} inputs, {len(inputs.results)} were given")
        if task.kind == TRAIN:
            adapter, _ = read_global(params, manifest.seed, inputs.results)
            zeros = {name: np.zeros_like(array) for name, array in adapter.items()}
            tensors = put(adapter, "adapter") | put(zeros, "first") | put(zeros, "second")
            return encode_state(tensors | {STEP: np.zeros((), np.int64)})
        adapter, velocity = read_global(params, manifest.seed, inputs.results[params.workers :])
        tensors = put(adapter, "adapter") | put(velocity, "velocity")
        schema = prefixed_schema(adapter_schema(params), "adapter")
        for worker, result in enumerate(inputs.results[: params.workers]):
            tensors |= put(take(decode_state(result, schema=schema), "adapter"), f"worker{worker}")
        return encode_state(tensors)

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        """Schema and finite numbers; of training states also the step and the laws of `lora_laws`."""
        check_number(task, number)
        tensors = decode_state(state, schema=self.schema(manifest, task, number))
        if task.kind == TRAIN:
            params = read_params(manifest)
            check_training(params, position(params, task)[0], number, tensors)

    def result(self, manifest: Manifest, task: TaskSpec, states: States) -> bytes:
        """The trained adapter alone; of an averaging task the whole last state."""
        return self._result(manifest, task, states(task.segments))

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        self.check_state(manifest, task, task.segments, last)
        require_last(result, self._result(manifest, task, last))

    def _result(self, manifest: Manifest, task: TaskSpec, last: bytes) -> bytes:
        tensors = decode_state(last, schema=self.schema(manifest, task, task.segments))
        return last if task.kind == AVERAGE else encode_state(put(take(tensors, "adapter"), "adapter"))

    def package(self, manifest: Manifest, result: bytes, dest: Path) -> Path:
        from proofyard.workloads.lora_export import export_adapter

        return export_adapter(manifest, result, dest, f"ipfs://{manifest.model}")

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        params = check_manifest(manifest)
        if task.kind == AVERAGE:
            return AverageRunner(params, adapter_schema(params))
        from proofyard.workloads.lora_runner import TrainRunner

        return TrainRunner(manifest, params, task, inputs, resources)

    def schema(self, manifest: Manifest, task: TaskSpec, number: int) -> Schema:
        """The tensors of state `number` of a task."""
        params = read_params(manifest)
        if task.kind == TRAIN:
            return train_schema(params)
        if task.kind != AVERAGE:
            raise ManifestRefused("workload", f"'lora' has no task of kind {task.kind!r}")
        return average_schema(adapter_schema(params), 0 if number else params.workers)


WORKLOAD = LoraWorkload()
