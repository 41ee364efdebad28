"""Scoring a sweep's candidate: its loss on the held-out documents."""

import math

import numpy as np

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.causal_lm import adapted_model
from proofyard.workloads.errors import InputRefused, SegmentFailed
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_tensors import take
from proofyard.workloads.packing import training_rows
from proofyard.workloads.state import Schema, decode_state, encode_state
from proofyard.workloads.text_data import Documents
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources


def held_out_loss(
    manifest: Manifest, inputs: Inputs, resources: Resources, adapter: bytes | None, sequences: int
) -> float:
    """Mean loss in nats a token over the first `sequences` held-out rows; `adapter` is the result of a `lora` task,
    None stands for the base model."""
    params = read_params(manifest)
    if inputs.data is None or inputs.model is None:
        raise InputRefused("the task", "was given no model directory or no data file")
    model = adapted_model(inputs.model, params.modules, manifest.precision, resources)
    model.decoder.adapters.set(take(decode_state(adapter), "adapter") if adapter else {}, params.scale)
    held_out = Documents(inputs.data, params.holdout_percent, held_out=True)
    rows = training_rows(held_out, inputs.model, params.seq_len, packing=params.packing, most=sequences)
    total = math.fsum(model.loss_sum(row) for row in rows.take(range(len(rows))))
    return total / rows.learned


class ScoreRunner:
    """The one segment of a scoring task: the state after is the adapter with its loss."""

    def __init__(
        self, manifest: Manifest, adapter: Schema, sequences: int, inputs: Inputs, resources: Resources
    ) -> None:
        self._manifest = manifest
        self._adapter = adapter
        self._sequences = sequences
        self._inputs = inputs
        self._resources = resources

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        tensors = decode_state(before, schema=self._adapter)
        loss = held_out_loss(self._manifest, self._inputs, self._resources, before, self._sequences)
        if not np.isfinite(loss):
            raise SegmentFailed(index, f"the held-out loss is {loss}")
        progress(Progress(segment=index, step=1, steps=1, loss=loss))
        return encode_state(tensors | {"loss": np.array(loss)})
