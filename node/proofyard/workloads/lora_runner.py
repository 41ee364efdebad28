"""Training segments: AdamW in exact arithmetic, so that a state says all and nothing hides in an optimizer object."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.causal_lm import AdaptedModel, adapted_model
from proofyard.workloads.dpo import train_pairs
from proofyard.workloads.errors import SegmentFailed, StateRefused, within_memory
from proofyard.workloads.exact.optimizer import AdamW, Hyperparameters
from proofyard.workloads.lora_laws import check_progress
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import STEP, carried_of, cut, initial_adapter, position, put, state_schema, take
from proofyard.workloads.packing import Row, Rows, training_rows
from proofyard.workloads.pairs import pair_rows
from proofyard.workloads.state import Array, decode_state, encode_state
from proofyard.workloads.text_data import Documents, batch_rows, shard
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources, require_files


@dataclass(frozen=True)
class Still:
    """What a task's steps do not change, as the backend's arrays: A where B alone is trained, and the factors `beside`
    the trained ones, merged ones or the ranks that other shards train."""

    a: dict[str, Any]
    beside: dict[str, Any]


class TrainRunner:
    """The segments of one training task: this worker's shard, this round's steps."""

    def __init__(
        self, manifest: Manifest, params: LoraParams, task: TaskSpec, inputs: Inputs, resources: Resources
    ) -> None:
        model, data = require_files(inputs)
        self.params = params
        self._seed = manifest.seed
        self._round, self._shard = position(params, task)
        self._micro_batch = resources.micro_batch or params.batch
        self._data = self.data_shard(self._shard)
        self._rows = shard_rows(model, data, params, self._data)
        self._model = adapted_model(model, params.modules, manifest.precision, resources)

    def data_shard(self, shard: int) -> int:
        """Whose documents are trained on."""
        return shard

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        params = self.params
        state = decode_state(before, schema=state_schema(params, self._round, self._shard))
        first, last = index * params.segment_steps, (index + 1) * params.segment_steps
        if state[STEP] != first:
            raise StateRefused(f"is {state[STEP]} at segment {index}, expected {first}", STEP)
        with within_memory(f"segment {index}"):
            optimizer = _optimizer(params, self._model, state)
            still = self._still(state)
            for step in self.steps(first, last):
                progress(self._step(optimizer, still, index, step))
            after = {**_tensors(optimizer), **carried_of(state), STEP: np.array(last, np.int64)}
        if not all(np.isfinite(array).all() for array in after.values()):
            raise SegmentFailed(index, "the adapter or a moment is no longer finite")
        check_progress(params, state, after)
        return encode_state(after)

    def steps(self, first: int, last: int) -> Sequence[int]:
        """The steps of a segment, counted from 0 in this round."""
        return range(first, last)

    def batch(self, step: int) -> list[Row]:
        """The `batch` rows of a step."""
        overall = self._round * self.params.task_steps + step
        purpose = ("lora batches", self._seed, self._data)
        return self._rows.take(batch_rows(len(self._rows), self.params.batch, overall, *purpose))

    def _still(self, state: Mapping[str, Array]) -> Still:
        params, rank = self.params, self.params.rank_of(self._shard)
        merged, rest = take(state, "merged"), take(state, "rest")
        a = {}
        if not params.averages_a:
            adapter = initial_adapter(params, self._seed)
            a = {name: array for name, array in adapter.items() if name.endswith("lora_A")}
        beside = merged | (rest | cut(a, rank, params.rank) if rest else {})
        return Still(self._on_device(cut(a, 0, rank)), self._on_device(beside))

    def _on_device(self, tensors: Mapping[str, Array]) -> dict[str, Any]:
        return {name: self._model.backend.array(np.array(array)) for name, array in tensors.items()}

    def _step(self, optimizer: AdamW, still: Still, index: int, step: int) -> Progress:
        started = time.perf_counter()
        rows, adapters = self.batch(step), self._model.decoder.adapters
        predicted = [tokens[1:] for row in rows for tokens in row]
        adapt = partial(
            adapters.set,
            still.a | optimizer.weights,
            self.params.scale,
            trains_a=self.params.averages_a,
            kept=still.beside,
        )
        parts = [rows[start : start + self._micro_batch] for start in range(0, len(rows), self._micro_batch)]
        if self.params.objective == "dpo":
            loss = train_pairs(self._model, parts, self.params.beta, adapt)
        else:
            loss = self._train_texts(parts, max(1, sum(int((tokens >= 0).sum()) for tokens in predicted)), adapt)
        norm = optimizer.step(
            adapters.gradients(), step + 1, self.params.lr_at(self._round * self.params.task_steps + step)
        )
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise SegmentFailed(index, f"the loss of step {step + 1} is {loss}, its gradient's norm {norm}")
        seconds = time.perf_counter() - started
        return Progress(
            segment=index,
            step=step + 1,
            steps=self.params.steps_of(self._shard),
            loss=loss,
            tokens_per_s=sum(map(len, predicted)) / seconds,
            rss_bytes=psutil.Process().memory_info().rss,
            seconds=seconds,
        )

    def _train_texts(self, parts: Sequence[Sequence[Row]], learned: int, adapt: Callable[[], None]) -> float:
        """The mean loss of a step's learned tokens; its gradient is in the adapters."""
        adapt()
        # Added as one list of losses would be: the parts' sums end where the next ones begin, and are only reported.
        total = 0.0
        for part in parts:
            total += self._model.train([tokens for row in part for tokens in row], 1 / learned)
        return total / learned


def _optimizer(params: LoraParams, model: AdaptedModel, state: Mapping[str, Array]) -> AdamW:
    weights, first, second = (take(state, group) for group in ("adapter", "first", "second"))
    hyper = Hyperparameters(params.beta1, params.beta2, params.eps, params.weight_decay, params.clip)
    return AdamW(model.backend, weights, first, second, hyper)


def _only_a(adapter: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in adapter.items() if name.endswith("lora_A")}


def _tensors(optimizer: AdamW) -> dict[str, Array]:
    adapter, first, second = optimizer.tensors()
    return put(adapter, "adapter") | put(first, "first") | put(second, "second")


def shard_rows(model: Path, data: Path, params: LoraParams, worker: int) -> Rows:
    """A worker's rows. The last ones stay in memory, for the audits of other workers' segments."""
    split = (params.holdout_percent, params.shard_by, params.workers, worker)
    if params.local:  # the file is the shard
        split = (params.holdout_percent, "document", 1, 0)
    return _shard_rows(model, data, *split, params.seq_len, params.packing, params.objective == "dpo")


@lru_cache(maxsize=4)
def _shard_rows(
    model: Path, data: Path, percent: int, by: str, workers: int, worker: int, seq_len: int, packing: bool, pairs: bool
) -> Rows:
    documents = shard(Documents(data, percent, pairs=pairs), workers, worker, by)
    if pairs:
        return pair_rows(documents, model, seq_len)
    return training_rows(documents, model, seq_len, packing=packing)
