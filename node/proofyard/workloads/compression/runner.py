"""Training whose last segment ends in the delta that is sent, not in the adapter."""

from dataclasses import dataclass

from proofyard.protocol.manifest import TaskSpec
from proofyard.workloads.compression.delta import finished
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import position
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import OnProgress, SegmentRunner


@dataclass(frozen=True)
class CompressingRunner:
    """`training` runs the segments of a task of `shard` in round `round_number`."""

    training: SegmentRunner
    params: LoraParams
    round_number: int
    shard: int

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        after = self.training.run(index, before, progress)
        if index < self.params.segments_of(self.shard) - 1:
            return after
        return encode_state(finished(self.params, self.round_number, self.shard, decode_state(after)))


def compressing(training: SegmentRunner, params: LoraParams, task: TaskSpec) -> SegmentRunner:
    """`training` as the manifest wants its results."""
    return CompressingRunner(training, params, *position(params, task)) if params.compression else training
