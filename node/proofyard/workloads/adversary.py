"""Cheats, for tests and the devnet: each wraps or replaces the honest runner of a task.

A node runs one only when it is told to (`--adversary KIND`), and says so in its log.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import ExecutionError
from proofyard.workloads.lora import STEP, TRAIN
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.state import Array, decode_state, encode_state
from proofyard.workloads.workload import Inputs, OnProgress, Resources, SegmentRunner, Workload

if TYPE_CHECKING:
    from proofyard.workloads.lora_runner import TrainRunner


def corrupt(
    kind: str, workload: Workload, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources
) -> SegmentRunner:
    """A runner that cheats in the way `kind` says. Tasks that the cheat does not concern are done honestly."""
    if kind not in KINDS:
        raise ExecutionError(f"no adversary named {kind!r}; known: {', '.join(sorted(KINDS))}")
    honest = workload.runner(manifest, task, inputs, resources)
    if task.kind != TRAIN:
        return honest
    return KINDS[kind](cast("TrainRunner", honest), read_params(manifest))


class SkipHalf:
    """Does half of each segment's steps and doubles what they changed, so the trace looks like all of them."""

    def __init__(self, honest: "TrainRunner", params: LoraParams) -> None:
        if params.segment_steps < 2:
            raise ExecutionError("skip-half needs at least 2 steps in a segment")
        self._honest = honest
        self._steps = params.segment_steps

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        half = self._steps // 2
        done = decode_state(self._honest.run(index, before, progress, steps=half))
        start = decode_state(before)
        factor = self._steps / half
        faked: dict[str, Array] = {}
        for name, array in done.items():
            grown = start[name] + (array - start[name]) * factor
            faked[name] = np.maximum(grown, 0) if name.startswith("second.") else grown
            faked[name] = faked[name].astype(array.dtype)
        faked[STEP] = (start[STEP] + self._steps).astype(np.int64)
        return encode_state(faked)


KINDS: dict[str, Callable[["TrainRunner", LoraParams], SegmentRunner]] = {"skip-half": SkipHalf}
