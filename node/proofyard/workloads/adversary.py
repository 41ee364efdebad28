"""The zoo of cheats, for tests and the devnet: each is an honest training runner with one thing done wrong.

A node runs one only when it is told to (`--adversary KIND`, named in `zoo`). Cheats that a runner cannot show
(silence, lazy or copying auditors) belong to the node. Averaging tasks are done honestly, except by the one that cheats
on everything.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace as _replace

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import TaskIndex
from proofyard.workloads.errors import ExecutionError
from proofyard.workloads.lora import STEP, TRAIN, initial_adapter, position, put
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_runner import TrainRunner
from proofyard.workloads.randomness import uniform
from proofyard.workloads.state import Array, decode_state, encode_state
from proofyard.workloads.text_data import Tokens
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources, SegmentRunner, Workload

NOISE, TINY_NOISE = 0.01, 0.0005
"""Length of the noise of `noise` and `tiny-noise`, relative to the update; the second is below the usual tolerance."""


class Skipping(TrainRunner):
    """Leaves steps out and scales up what the others changed, so the trace looks like all of them."""

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        first = index * self.params.segment_steps
        done = len(self.steps(first, first + self.params.segment_steps))
        if not done:
            raise ExecutionError("this adversary needs more steps in a segment; set segment_steps to at least 2")
        after = super().run(index, before, progress)
        return _grown(before, after, self.params.segment_steps / done)


class SkipHalf(Skipping):
    def steps(self, first: int, last: int) -> Sequence[int]:
        return range(first, first + (last - first) // 2)


class SkipTenth(Skipping):
    def steps(self, first: int, last: int) -> Sequence[int]:
        return [step for step in range(first, last) if step % 10 != 9]


class HalfBatch(TrainRunner):
    def batch(self, step: int) -> Tokens:
        rows = super().batch(step)
        return rows[: max(1, len(rows) // 2)]


class ShortSequences(TrainRunner):
    def batch(self, step: int) -> Tokens:
        rows = super().batch(step)
        return rows[:, : rows.shape[1] // 2 + 1]


class StaleAdapter(TrainRunner):
    """Trains from the job's first adapter and claims to have trained from this round's."""

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        stale = put(initial_adapter(self.params, self._seed), "adapter") if index == 0 else {}
        return super().run(index, encode_state(decode_state(before) | stale), progress)


class Noise(TrainRunner):
    """Honest work with a little noise on top."""

    share = NOISE

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        after = super().run(index, before, progress)
        start, end = decode_state(before), dict(decode_state(after))
        for name in [name for name in end if name.startswith("adapter.")]:
            change = end[name] - start[name]
            noise = uniform(change.size, 3**0.5, "noise", index, name).reshape(change.shape)
            spread = float(np.sqrt(np.mean(np.square(change))))
            end[name] = (end[name] + self.share * spread * noise).astype(np.float32)
        return encode_state(end)


class TinyNoise(Noise):
    """Too little noise for any tolerance that honest machines can keep."""

    share = TINY_NOISE


class FakeAll:
    """Computes nothing; every number moves by about what training would move it."""

    def __init__(self, params: LoraParams) -> None:
        self._params = params

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        state = dict(decode_state(before))
        reach = self._params.lr * self._params.segment_steps / 2
        for name in [name for name in state if name != STEP]:
            noise = uniform(state[name].size, reach, "fake", index, name).reshape(state[name].shape)
            moved = state[name] + noise * (1e-3 if name.startswith("second.") else 1.0)
            state[name] = (np.abs(moved) if name.startswith("second.") else moved).astype(np.float32)
        done = (index + 1) * self._params.segment_steps
        state[STEP] = np.array(done, np.int64)
        progress(Progress(segment=index, step=done, steps=self._params.task_steps))
        return encode_state(state)


class FakeAverage:
    """Claims that everybody trained in the opposite direction."""

    def __init__(self, honest: SegmentRunner) -> None:
        self._honest = honest

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        tensors = decode_state(self._honest.run(index, before, progress))
        return encode_state({name: -array for name, array in tensors.items()})


class Crashing(TrainRunner):
    """Ends its process in the middle of every task."""

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        if index >= self.params.segments // 2:
            os._exit(3)
        return super().run(index, before, progress)


Maker = Callable[[Manifest, LoraParams, TaskSpec, Inputs, Resources], SegmentRunner]


def _fake_all(m: Manifest, p: LoraParams, t: TaskSpec, i: Inputs, r: Resources) -> SegmentRunner:
    return FakeAll(p)


def _low_rate(m: Manifest, p: LoraParams, t: TaskSpec, i: Inputs, r: Resources) -> SegmentRunner:
    return TrainRunner(m, _replace(p, lr=p.lr * 0.9), t, i, r)


def _wrong_shard(m: Manifest, p: LoraParams, t: TaskSpec, i: Inputs, r: Resources) -> SegmentRunner:
    """Another worker's data: what copying that worker's whole trace amounts to as well."""
    number, worker = position(p, t)
    other = TaskIndex(number * (p.workers + 1) + (worker + 1) % p.workers)
    return TrainRunner(m, p, _replace(t, index=other), i, r)


def _bf16(m: Manifest, p: LoraParams, t: TaskSpec, i: Inputs, r: Resources) -> SegmentRunner:
    return TrainRunner(_replace(m, execution_class="bf16"), p, t, i, r)


KINDS: dict[str, Maker] = {
    "bf16": _bf16,
    "copied-result": _wrong_shard,
    "crashing": Crashing,
    "everything-at-once": _fake_all,
    "fake-all": _fake_all,
    "half-batch": HalfBatch,
    "learning-rate": _low_rate,
    "noise": Noise,
    "short-sequences": ShortSequences,
    "skip-half": SkipHalf,
    "skip-tenth": SkipTenth,
    "stale-adapter": StaleAdapter,
    "tiny-noise": TinyNoise,
    "wrong-result": TrainRunner,
    "wrong-shard": _wrong_shard,
}


def corrupt(
    kind: str, workload: Workload, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources
) -> SegmentRunner:
    """A runner that cheats in the way `kind` says."""
    if kind not in KINDS:
        raise ExecutionError(f"no adversary named {kind!r}; known: {', '.join(sorted(KINDS))}")
    if task.kind != TRAIN:
        honest = workload.runner(manifest, task, inputs, resources)
        return FakeAverage(honest) if kind == "everything-at-once" else honest
    return KINDS[kind](manifest, read_params(manifest), task, inputs, resources)


def corrupt_result(kind: str, result: bytes) -> bytes:
    """The result that a cheat hands in after a correct trace: of `wrong-result` it is another one."""
    if kind != "wrong-result":
        return result
    return encode_state({name: -array for name, array in decode_state(result).items()})


def _grown(before: bytes, after: bytes, factor: float) -> bytes:
    start, end = decode_state(before), decode_state(after)
    faked: dict[str, Array] = {STEP: end[STEP]}
    for name in end.keys() - {STEP}:
        grown = start[name] + (end[name] - start[name]) * factor
        faked[name] = (np.maximum(grown, 0) if name.startswith("second.") else grown).astype(np.float32)
    return encode_state(faked)
