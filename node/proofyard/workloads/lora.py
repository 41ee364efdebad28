"""LoRA fine-tuning in rounds: workers train on their own shards, their adapters are averaged, and so on.

Task r * workers + w trains in round r on shard w, and depends on the results of round r - 1 alone (with compression
on those of some rounds, with `overlap` on those of rounds r - 2 and r - 3: `lora_tensors`). What a round starts
from is a function of those (`lora_rounds`), which every worker computes and every verifier computes again; the job's
result is the same function of the last round's results, with `overlap` of those of the last two. A training state is
the adapter, AdamW's two moments and the number of steps done in this round; batches follow from the seed. The chain of
shard 0 carries the round's start as well (`lora_tensors`). No torch here: see `lora_runner` for the training itself,
`lora_laws` for what every state obeys.
"""

from collections.abc import Sequence
from pathlib import Path

from proofyard.protocol.caps import Caps
from proofyard.protocol.closing import Rounds
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads.compression import delta
from proofyard.workloads.errors import InputRefused, StateRefused
from proofyard.workloads.local_data import LocalData, LocalFile
from proofyard.workloads.lora_laws import check_finished, check_training, reach
from proofyard.workloads.lora_params import LoraParams, check_manifest, read_params
from proofyard.workloads.lora_rounds import decode_begins, start_of_round, whole_adapter
from proofyard.workloads.lora_sets import unsent, whole_rounds
from proofyard.workloads.lora_tensors import (
    ORIGIN,
    carries_outer,
    first_state,
    key_rounds,
    outer_of,
    position,
    position_of,
    put,
    result_of,
    state_schema,
    take,
    task_at,
)
from proofyard.workloads.state import check_number, decode_state, encode_state, most_bytes, require_last
from proofyard.workloads.workload import (
    Inputs,
    Resources,
    Results,
    SegmentRunner,
    States,
    require_adapter,
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
        for number in range(params.begun, params.rounds):
            first, before = task_at(params, number, 0), whole_rounds(params, number)
            tasks += [
                TaskSpec(
                    index=TaskIndex(first + shard),
                    kind=TRAIN,
                    deps=before,
                    segments=params.segments_of(shard),
                    work_units=params.steps_of(shard) * params.step_tokens,
                    label=f"round {number + 1}, shard {shard + 1}",
                )
                for shard in range(params.workers)
            ]
        return tasks

    def finals(self, manifest: Manifest) -> tuple[TaskIndex, ...]:
        """The last round's tasks, or with compression all that a round after it would rest on."""
        params = check_manifest(manifest)
        return whole_rounds(params, params.rounds + params.behind)

    def begins(self, manifest: Manifest, task: TaskSpec) -> bool:
        """In the first round of a job that goes on from another one, with `overlap` in the first two."""
        params = read_params(manifest)
        return bool(params.begins) and position(params, task)[0] <= params.begun + params.behind

    def rounds(self, manifest: Manifest) -> Rounds | None:
        """With `closing`."""
        if manifest.params.get("closing") is None:
            return None
        params = read_params(manifest)
        if params.closing is None:
            return None
        return Rounds(params.closing, params.workers, params.rounds - params.begun, key_rounds(params))

    def caps(self, manifest: Manifest) -> tuple[int, Caps] | None:
        """With `caps`."""
        if manifest.params.get("caps") is None:
            return None
        params = read_params(manifest)
        return (params.workers, params.caps) if params.caps else None

    def local(self, manifest: Manifest) -> LocalData | None:
        """With `local`."""
        return None if manifest.params.get("local") is None else read_params(manifest).local or None

    def local_file(self, manifest: Manifest, task: TaskSpec) -> LocalFile:
        """The shard's."""
        params, local = read_params(manifest), self.local(manifest)
        assert local is not None, "asked for of such jobs"
        return LocalFile(name=local.name, cid=local.digests[position(params, task)[1]], schema=local.schema)

    def agrees(self, manifest: Manifest, task: TaskSpec, segment: int, before: bytes, one: bytes, other: bytes) -> bool:
        """Verdicts on data that stays at home cost no stake, and rest on the same bytes all the same."""
        return one == other

    def carries(self, manifest: Manifest) -> bool:
        """With compression."""
        return manifest.params.get("compression") is not None

    def carried(self, manifest: Manifest, task: TaskSpec, results: Sequence[bytes]) -> tuple[Cid, ...]:
        """The last states of the shard's tasks whose residuals this one takes over."""
        params = read_params(manifest)
        require_inputs(task, Inputs(results=tuple(results)))
        of, shard = dict(zip(task.deps, results, strict=True)), position(params, task)[1]
        return tuple(delta.last_named(params, number, shard, of[each]) for each, number in _taken_over(params, task))

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        params = read_params(manifest)
        require_inputs(task, inputs)
        round_number, shard = position(params, task)
        begins = require_adapter(inputs) if self.begins(manifest, task) else b""
        start = start_of_round(params, manifest.seed, inputs.results, round_number, begins, tasks=task.deps)
        if not params.compression:
            return encode_state(first_state(params, shard, start.outer))
        before = _taken_over(params, task)
        if len(inputs.carried) != len(before):
            raise StateRefused(f"task {task.index} was given {len(inputs.carried)} last states of its shard")
        left_out = [
            delta.residual_in(params, number, shard, last)
            for (_, number), last in zip(before, inputs.carried, strict=True)
        ]
        largest = reach(params, round_number).left_out
        return encode_state(delta.begun(params, round_number, shard, start.outer, left_out, largest))

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        """Schema, finite numbers, the step, and the laws of `lora_laws`."""
        check_number(task, number)
        params = read_params(manifest)
        round_number, shard = position(params, task)
        if params.compression and number == task.segments:
            tensors = decode_state(state, schema=delta.last_schema(params, round_number, shard))
            check_finished(params, round_number, shard, tensors)
        else:
            tensors = decode_state(state, schema=state_schema(params, round_number, shard))
            check_training(params, round_number, number, tensors)

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        """Those of a state before the last one: a result has some of its tensors, or what encodes them."""
        params = read_params(manifest)
        return most_bytes(state_schema(params, *position(params, task)))

    def result(self, manifest: Manifest, task: TaskSpec, states: States) -> bytes:
        """The trained adapter, or what it has changed; of shard 0 also what the round started from, of all shards where
        rounds do not wait for all of them."""
        last = states(task.segments)
        return self._result(manifest, task, last, _cid_of(last) if self.carries(manifest) else None)

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        """Also that what a chain carries is what it was given: its first state can be made from its last one."""
        self.check_state(manifest, task, task.segments, last)
        require_last(result, self._result(manifest, task, last, trace[-1] if self.carries(manifest) else None))
        params = read_params(manifest)
        number, shard = position(params, task)
        if not carries_outer(params, number, shard):
            return
        tensors = decode_state(last)
        origin = put(take(tensors, ORIGIN), ORIGIN)
        if _cid_of(encode_state(first_state(params, shard, outer_of(tensors)) | origin)) != trace[0]:
            raise StateRefused("base and velocity of the result are not those of the task's first state")

    def _result(self, manifest: Manifest, task: TaskSpec, last: bytes, named: Cid | None) -> bytes:
        """`named`: the CID of the last state, which results with compression name."""
        params = read_params(manifest)
        number, shard = position(params, task)
        if named is not None:
            tensors = decode_state(last, schema=delta.last_schema(params, number, shard))
            return encode_state(delta.result_of(tensors, named))
        return encode_state(result_of(params, shard, decode_state(last, schema=state_schema(params, number, shard))))

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """What the last round's adapters come to, as `peft` loads it."""
        return self.package_of(manifest, self.finals(manifest), results, dest)

    def package_of(self, manifest: Manifest, taken: Sequence[TaskIndex], results: Results, dest: Path) -> Path:
        """The same of what the last round took."""
        from proofyard.workloads.lora_export import export_adapter

        params, trained = read_params(manifest), [results(task) for task in taken]
        start = start_of_round(params, manifest.seed, trained, params.rounds + params.behind, tasks=taken)
        return export_adapter(manifest, whole_adapter(params, manifest.seed, start), dest, f"ipfs://{manifest.model}")

    def check_inputs(self, manifest: Manifest, inputs: Inputs) -> None:
        from proofyard.workloads.rehearsal import rehearse_model, rehearse_training

        params = read_params(manifest)
        if params.local:
            if inputs.model is not None:
                rehearse_model(inputs.model, params)
            return
        model, data = require_files(inputs)
        if params.begins:
            try:
                decode_begins(params, require_adapter(inputs))
            except StateRefused as error:
                raise InputRefused("the start", f"is none that this job can go on from: {error}") from None
        rehearse_training(model, data, params)

    def load_model(self, manifest: Manifest, model: Path, resources: Resources) -> None:
        from proofyard.workloads.causal_lm import adapted_model

        adapted_model(model, read_params(manifest).modules, manifest.precision, resources)

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        from proofyard.workloads.compression.runner import compressing
        from proofyard.workloads.lora_runner import TrainRunner

        params = check_manifest(manifest)
        return compressing(TrainRunner(manifest, params, task, inputs, resources), params, task)


def _taken_over(params: LoraParams, task: TaskSpec) -> list[tuple[TaskIndex, int]]:
    """The tasks of the same shard whose residuals a task begins with, each with its round."""
    number, shard = position(params, task)
    if params.closing:
        return [(each, position_of(params, each)[0]) for each in unsent(params, number, shard, task.deps)]
    return [(TaskIndex(task.index - params.workers), number - 1)] if number > params.begun else []


def _cid_of(state: bytes) -> Cid:
    from proofyard.artifacts.builder import cid_of_bytes  # it loads QUIC, which training does without

    return cid_of_bytes(state)


WORKLOAD = LoraWorkload()
