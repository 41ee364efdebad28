"""LoRA fine-tuning in rounds: workers train on their own shards, their adapters are averaged, and so on.

Task r * workers + w trains in round r on shard w, and depends on the results of round r - 1 alone. What a round starts
from is a function of those (`lora_rounds`), which every worker computes and every verifier computes again; the job's
result is the same function of the last round's results. A training state is the adapter, AdamW's two moments and the
number of steps done in this round; batches follow from the seed. The chain of shard 0 carries the round's start as well
(`lora_tensors`). No torch here: see `lora_runner` for the training itself, `lora_laws` for what every state obeys.
"""

from collections.abc import Sequence
from pathlib import Path

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.lora_laws import check_training
from proofyard.workloads.lora_params import check_manifest, read_params
from proofyard.workloads.lora_rounds import start_of_round, whole_adapter
from proofyard.workloads.lora_tensors import first_state, outer_of, position, result_of, state_schema
from proofyard.workloads.state import check_number, decode_state, encode_state, most_bytes, require_last
from proofyard.workloads.workload import (
    Inputs,
    Resources,
    Results,
    SegmentRunner,
    States,
    require_files,
    require_inputs,
)

TRAIN = "train"


class LoraWorkload:
    """The workload `lora`."""

    name = "lora"
    exact = True
    arithmetic = True

    def check(self, manifest: Manifest) -> None:
        check_manifest(manifest)

    def graph(self, manifest: Manifest) -> list[TaskSpec]:
        params = check_manifest(manifest)
        tasks: list[TaskSpec] = []
        before: tuple[TaskIndex, ...] = ()
        for number in range(params.rounds):
            first = number * params.workers
            tasks += [
                TaskSpec(
                    index=TaskIndex(first + shard),
                    kind=TRAIN,
                    deps=before,
                    segments=params.segments,
                    work_units=params.task_steps * params.batch * params.seq_len,
                    label=f"round {number + 1}, shard {shard + 1}",
                )
                for shard in range(params.workers)
            ]
            before = tuple(TaskIndex(first + shard) for shard in range(params.workers))
        return tasks

    def finals(self, manifest: Manifest) -> tuple[TaskIndex, ...]:
        """The last round's tasks."""
        params = check_manifest(manifest)
        last = (params.rounds - 1) * params.workers
        return tuple(TaskIndex(last + shard) for shard in range(params.workers))

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        params = read_params(manifest)
        require_inputs(task, inputs)
        round_number, shard = position(params, task)
        start = start_of_round(params, manifest.seed, inputs.results, round_number)
        return encode_state(first_state(params, shard, start.outer))

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        """Schema, finite numbers, the step, and the laws of `lora_laws`."""
        check_number(task, number)
        params = read_params(manifest)
        round_number, shard = position(params, task)
        check_training(params, round_number, number, decode_state(state, schema=state_schema(params, shard)))

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        """Those of a state, whose tensors a result has some of."""
        params = read_params(manifest)
        return most_bytes(state_schema(params, position(params, task)[1]))

    def result(self, manifest: Manifest, task: TaskSpec, states: States) -> bytes:
        """The trained adapter; of shard 0 also what the round started from."""
        return self._result(manifest, task, states(task.segments))

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        """Also that what shard 0 carries is what it was given: its first state can be made from its last one."""
        self.check_state(manifest, task, task.segments, last)
        require_last(result, self._result(manifest, task, last))
        params = read_params(manifest)
        if position(params, task)[1]:
            return
        from proofyard.artifacts.builder import cid_of_bytes  # not for the process that computes: it loads QUIC

        if cid_of_bytes(encode_state(first_state(params, 0, outer_of(decode_state(result))))) != trace[0]:
            raise StateRefused("base and velocity of the result are not those of the task's first state")

    def _result(self, manifest: Manifest, task: TaskSpec, last: bytes) -> bytes:
        params = read_params(manifest)
        shard = position(params, task)[1]
        return encode_state(result_of(shard, decode_state(last, schema=state_schema(params, shard))))

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """What the last round's adapters come to, as `peft` loads it."""
        from proofyard.workloads.lora_export import export_adapter

        params, trained = read_params(manifest), [results(task) for task in self.finals(manifest)]
        start = start_of_round(params, manifest.seed, trained, params.rounds)
        return export_adapter(manifest, whole_adapter(params, manifest.seed, start), dest, f"ipfs://{manifest.model}")

    def check_inputs(self, manifest: Manifest, inputs: Inputs) -> None:
        from proofyard.workloads.rehearsal import rehearse_training

        model, data = require_files(inputs)
        rehearse_training(model, data, read_params(manifest))

    def load_model(self, manifest: Manifest, model: Path, resources: Resources) -> None:
        from proofyard.workloads.causal_lm import adapted_model

        adapted_model(model, read_params(manifest).modules, manifest.precision, resources)

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        from proofyard.workloads.lora_runner import TrainRunner

        return TrainRunner(manifest, check_manifest(manifest), task, inputs, resources)


WORKLOAD = LoraWorkload()
