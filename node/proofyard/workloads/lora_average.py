"""Averaging a round: the deltas' mean in float64 in a fixed order, then Nesterov's outer step (DiLoCo).

Every sum that decides anything is exactly rounded (`math.fsum`) or elementwise, so the result is the same to
the last bit on every machine.
"""

import math
import statistics
from collections.abc import Mapping

import numpy as np

from proofyard.workloads.errors import SegmentFailed
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.state import Array, Schema, TensorSpec, decode_state, encode_state
from proofyard.workloads.workload import OnProgress, Progress


def average_schema(adapter: Schema, workers: int) -> dict[str, TensorSpec]:
    """State 0 holds adapter, velocity and every worker's adapter; state 1 (`workers` = 0) the new first two."""
    prefixes = ["adapter", "velocity", *(f"worker{worker}" for worker in range(workers))]
    return {f"{prefix}.{name}": spec for prefix in prefixes for name, spec in adapter.items()}


class AverageRunner:
    """The one segment of an averaging task."""

    def __init__(self, params: LoraParams, adapter: Schema) -> None:
        self._params = params
        self._adapter = adapter

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        params, names = self._params, sorted(self._adapter)
        tensors = decode_state(before, schema=average_schema(self._adapter, params.workers))
        deltas = [_delta(tensors, names, worker) for worker in range(params.workers)]
        norms = [delta_norm(delta) for delta in deltas]
        if not all(math.isfinite(norm) for norm in norms):
            raise SegmentFailed(index, f"a delta is too long to average: norms {norms}")
        factors = shortening(norms, params.max_delta_ratio)
        state: dict[str, Array] = {}
        for name in names:
            mean = np.zeros(self._adapter[name].shape, np.float64)
            for factor, delta in zip(factors, deltas, strict=True):
                mean += delta[name] * factor
            mean /= params.workers
            velocity = params.outer_momentum * tensors[f"velocity.{name}"].astype(np.float64) + mean
            step = params.outer_lr * (mean + params.outer_momentum * velocity)
            state[f"adapter.{name}"] = (tensors[f"adapter.{name}"].astype(np.float64) + step).astype(np.float32)
            state[f"velocity.{name}"] = velocity.astype(np.float32)
        progress(Progress(segment=index, step=1, steps=1))
        return encode_state(state)


def delta_norm(delta: Mapping[str, Array]) -> float:
    """The L2 norm of one worker's update, exactly rounded tensor by tensor."""
    return math.sqrt(math.fsum(math.fsum(np.square(delta[name]).reshape(-1).tolist()) for name in sorted(delta)))


def shortening(norms: list[float], max_ratio: float) -> list[float]:
    """The factor of each delta: below 1 for one longer than `max_ratio` times the median, so that no single worker
    can dominate the mean."""
    bound = max_ratio * statistics.median(norms)
    return [bound / norm if norm > bound else 1.0 for norm in norms]


def _delta(tensors: Mapping[str, Array], names: list[str], worker: int) -> dict[str, Array]:
    return {
        name: tensors[f"worker{worker}.{name}"].astype(np.float64) - tensors[f"adapter.{name}"].astype(np.float64)
        for name in names
    }
