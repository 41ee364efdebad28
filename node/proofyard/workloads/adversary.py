"""The zoo of cheats, for tests and the devnet: each is an honest runner with one thing done wrong.

A node runs one only when it is told to (`--adversary KIND`, named in `zoo`). Cheats that a runner cannot show
(silence, lazy or copying auditors) belong to the node. A kind that makes no sense for a task is honest there: there are
no moments to plant in a table, and scores are computed honestly by all but the one that cheats on everything.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace as _replace

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads import adversary_states as states
from proofyard.workloads.adversary_states import Altering, AlteringRows, Fading, MadeUp, Planting
from proofyard.workloads.adversary_weights import KINDS as TAMPERED
from proofyard.workloads.adversary_weights import Tampered
from proofyard.workloads.compression.runner import compressing
from proofyard.workloads.errors import ExecutionError
from proofyard.workloads.lora import TRAIN
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_rounds import Start, start_of_round
from proofyard.workloads.lora_runner import TrainRunner
from proofyard.workloads.lora_tensors import first_state, position, put, take
from proofyard.workloads.packing import Row
from proofyard.workloads.rows import COMPUTE, Compute, RowsRunner
from proofyard.workloads.state import Tensors, decode_state, encode_state
from proofyard.workloads.sweep import as_lora
from proofyard.workloads.workload import Inputs, OnProgress, Resources, SegmentRunner, Workload, require_adapter

NOISE, TINY_NOISE = 0.01, 0.0005
"""Length of the noise of `noise` and `tiny-noise`, relative to the update."""


class Skipping(TrainRunner):
    """Leaves steps out and scales up what the others changed, so the trace looks like all of them."""

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        first = index * self.params.segment_steps
        done = len(self.steps(first, first + self.params.segment_steps))
        if not done:
            raise ExecutionError("this adversary needs more steps in a segment; set segment_steps to at least 2")
        after = super().run(index, before, progress)
        alter = states.grown(self.params.segment_steps / done)
        return encode_state(alter(decode_state(before), dict(decode_state(after)), index))


class SkipHalf(Skipping):
    def steps(self, first: int, last: int) -> Sequence[int]:
        return range(first, first + (last - first) // 2)


class SkipTenth(Skipping):
    def steps(self, first: int, last: int) -> Sequence[int]:
        return [step for step in range(first, last) if step % 10 != 9]


class HalfBatch(TrainRunner):
    def batch(self, step: int) -> list[Row]:
        rows = super().batch(step)
        return rows[: max(1, len(rows) // 2)]


class ShortSequences(TrainRunner):
    def batch(self, step: int) -> list[Row]:
        return [[tokens[: len(tokens) // 2 + 1] for tokens in row] for row in super().batch(step)]


class WrongShard(TrainRunner):
    """Another worker's data: what copying that worker's whole trace amounts to as well."""

    def data_shard(self, shard: int) -> int:
        return (shard + 1) % self.params.workers


class StaleAdapter(TrainRunner):
    """Trains from the job's first adapter and claims to have trained from this round's."""

    def __init__(
        self, manifest: Manifest, params: LoraParams, task: TaskSpec, inputs: Inputs, resources: Resources
    ) -> None:
        super().__init__(manifest, params, task, inputs, resources)
        first = first_state(params, self._shard, self._first_start(manifest, inputs).outer)
        self.stale = put(take(first, "adapter"), "adapter")

    def _first_start(self, manifest: Manifest, inputs: Inputs) -> Start:
        begins = require_adapter(inputs) if self.params.begins else b""
        return start_of_round(self.params, manifest.seed, (), self.params.begun, begins)

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        start = decode_state(before) | (self.stale if index == 0 else {})
        return super().run(index, encode_state(start), progress)


class Crashing(TrainRunner):
    """Ends its process in the middle of every task."""

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        if index >= self.params.segments_of(self._shard) // 2:
            os._exit(3)
        return super().run(index, before, progress)


Maker = Callable[[Manifest, LoraParams, TaskSpec, Inputs, Resources], SegmentRunner]


def _made_up(m: Manifest, p: LoraParams, t: TaskSpec, i: Inputs, r: Resources) -> SegmentRunner:
    return MadeUp(p, position(p, t)[0] * p.task_steps)


def _skip_once(m: Manifest, p: LoraParams, t: TaskSpec, i: Inputs, r: Resources) -> SegmentRunner:
    return (TrainRunner if position(p, t)[0] else SkipHalf)(m, p, t, i, r)


def _low_rate(m: Manifest, p: LoraParams, t: TaskSpec, i: Inputs, r: Resources) -> SegmentRunner:
    return TrainRunner(m, _replace(p, lr=p.lr * 0.9), t, i, r)


def _altering(alter: states.Alter) -> Maker:
    return lambda m, p, t, i, r: Altering(TrainRunner(m, p, t, i, r), alter)


def _planting(plant: Callable[[Tensors], Tensors]) -> Maker:
    return lambda m, p, t, i, r: Planting(TrainRunner(m, p, t, i, r), p, plant)


TRAINING: dict[str, Maker] = {
    "blown-adapter": _planting(states.blown_adapter),
    "copied-result": WrongShard,
    "crashing": Crashing,
    "dead-adapter": _planting(states.dead_adapter),
    "everything-at-once": _made_up,
    "faint-adapter": lambda m, p, t, i, r: Fading(TrainRunner(m, p, t, i, r), p, states.faint_adapter),
    "fake-all": _made_up,
    "half-batch": HalfBatch,
    "learning-rate": _low_rate,
    "moments-nudged": _altering(states.nudged_moments),
    "noise": _altering(states.noise(NOISE)),
    "planted-moments": _planting(states.planted_moments),
    "short-sequences": ShortSequences,
    "skip-half": SkipHalf,
    "skip-once": _skip_once,
    "skip-tenth": SkipTenth,
    "stale-adapter": StaleAdapter,
    "tiny-noise": _altering(states.noise(TINY_NOISE)),
    "trap": _planting(states.negative_moment),
    "wrong-shard": WrongShard,
    "wrong-step": _planting(states.wrong_step),
}


def _repeated(runner: RowsRunner, share: float) -> SegmentRunner:
    """Computes `share` of a segment's rows, at least one, and repeats the last of them for the others."""
    honest, join, cut = runner.compute, runner.workload.join_tables, runner.workload.cut_table

    def compute(lines: Sequence[Any]) -> Tensors:
        count = max(1, int(len(lines) * share))
        table = honest(lines[:count])
        return join([table, *[cut(table, range(count - 1, count))] * (len(lines) - count)])

    return _computing(runner, compute)


def _shifted(runner: RowsRunner) -> SegmentRunner:
    """Computes every row from the line after it."""
    runner.lines = [*runner.lines[1:], *runner.lines[:1]]
    return runner


def _computing(runner: RowsRunner, compute: Compute) -> SegmentRunner:
    runner.compute = compute
    return runner


ROWS: dict[str, Callable[[RowsRunner], SegmentRunner]] = {
    "copied-result": _shifted,
    "everything-at-once": partial(_repeated, share=0.0),
    "fake-all": partial(_repeated, share=0.0),
    "flipped-answer": lambda runner: AlteringRows(runner, states.flipped_answer),
    "noise": lambda runner: AlteringRows(runner, states.noise(NOISE)),
    "rows-nudged": lambda runner: AlteringRows(runner, states.nudged_rows),
    "skip-half": partial(_repeated, share=0.5),
    "skip-tenth": partial(_repeated, share=0.9),
    "tiny-noise": lambda runner: AlteringRows(runner, states.noise(TINY_NOISE)),
    "wrong-shard": _shifted,
}

KINDS = sorted({*TRAINING, *ROWS, *TAMPERED, "wrong-result"})


def corrupt(
    kind: str, workload: Workload, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources
) -> SegmentRunner:
    """A runner that cheats in the way `kind` says."""
    if kind not in KINDS:
        raise ExecutionError(f"no adversary named {kind!r}; known: {', '.join(KINDS)}")
    if kind in TAMPERED and workload.arithmetic:
        return Tampered(lambda: workload.runner(manifest, task, inputs, resources), TAMPERED[kind])
    if task.kind == TRAIN and kind in TRAINING:
        lora, spec = as_lora(manifest, task) if workload.name == "sweep" else (manifest, task)
        params = read_params(lora)
        cheat = TRAINING[kind](lora, params, spec, inputs, resources)
        return compressing(cheat, params, spec)
    honest = workload.runner(manifest, task, inputs, resources)
    if task.kind == COMPUTE and isinstance(honest, RowsRunner):
        return ROWS[kind](honest) if kind in ROWS else honest
    return Altering(honest, states.opposite) if kind == "everything-at-once" else honest


def corrupt_result(kind: str, result: bytes) -> bytes:
    """The result that a cheat hands in after a correct trace: of `wrong-result` it is another one."""
    if kind != "wrong-result":
        return result
    return encode_state(states.opposite({}, dict(decode_state(result)), 0))
