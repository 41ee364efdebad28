"""Training segments: AdamW on plain tensors, so that the state is complete and nothing hides in an optimizer object."""

import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.causal_lm import AdaptedModel, adapted_model
from proofyard.workloads.errors import InputRefused, OutOfMemory, SegmentFailed, StateRefused
from proofyard.workloads.lora import STEP, position, put, take, train_schema
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.state import Array, decode_state, encode_state
from proofyard.workloads.text_data import Tokens, batch_rows, is_held_out, pack, read_documents, shard
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources


class TrainRunner:
    """The segments of one training task: this worker's shard, this round's steps."""

    def __init__(
        self, manifest: Manifest, params: LoraParams, task: TaskSpec, inputs: Inputs, resources: Resources
    ) -> None:
        if inputs.model is None or inputs.data is None:
            raise InputRefused("the task", "was given no model directory or no data file")
        self.params = params
        self._seed = manifest.seed
        self._round, self._worker = position(params, task)
        self._micro_batch = resources.micro_batch or params.batch
        self._rows = training_rows(inputs.model, inputs.data, params, self._worker)
        self._model = adapted_model(inputs.model, params, manifest.execution_class, resources)

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        params = self.params
        state = decode_state(before, schema=train_schema(params))
        first, last = index * params.segment_steps, (index + 1) * params.segment_steps
        if state[STEP] != first:
            raise StateRefused(f"is {state[STEP]} at segment {index}, expected {first}", STEP)
        optimizer = AdamW(params, self._model, take(state, "adapter"), take(state, "first"), take(state, "second"))
        try:
            for step in self.steps(first, last):
                progress(self._step(optimizer, index, step))
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(f"segment {index} does not fit in memory: {error}") from None
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise OutOfMemory(f"segment {index} does not fit in memory: {error}") from None
            raise
        finished: dict[str, Array] = {STEP: np.array(last, np.int64)}
        return encode_state(finished | optimizer.state())

    def steps(self, first: int, last: int) -> Sequence[int]:
        """The steps of a segment, counted from 0 in this round."""
        return range(first, last)

    def batch(self, step: int) -> Tokens:
        """The rows of a step, (batch, seq_len + 1) tokens."""
        overall = self._round * self.params.task_steps + step
        purpose = ("lora batches", self._seed, self._worker)
        return self._rows[batch_rows(len(self._rows), self.params.batch, overall, *purpose)]

    def _step(self, optimizer: "AdamW", index: int, step: int) -> Progress:
        started = time.perf_counter()
        rows = self.batch(step)
        tokens = rows.shape[0] * (rows.shape[1] - 1)
        optimizer.zero_gradients()
        total = 0.0
        for start in range(0, len(rows), self._micro_batch):
            total += self._model.loss_sum(rows[start : start + self._micro_batch], backward_scale=1 / tokens)
        norm = optimizer.step(step + 1, self.params.lr_at(self._round * self.params.task_steps + step))
        if not (np.isfinite(total) and np.isfinite(norm)):
            raise SegmentFailed(index, f"the loss of step {step + 1} is {total / tokens}, its gradient's norm {norm}")
        return Progress(
            segment=index,
            step=step + 1,
            steps=self.params.task_steps,
            loss=total / tokens,
            tokens_per_s=tokens / (time.perf_counter() - started),
            rss_bytes=psutil.Process().memory_info().rss,
        )


def training_rows(model: Path, data: Path, params: LoraParams, worker: int) -> Tokens:
    """A worker's packed shard. The last ones stay in memory, for the audits of other workers' segments."""
    return _training_rows(model, data, params.holdout_percent, params.shard_by, params.workers, worker, params.seq_len)


@lru_cache(maxsize=4)
def _training_rows(model: Path, data: Path, percent: int, by: str, workers: int, worker: int, seq_len: int) -> Tokens:
    documents = [document for document in read_documents(data) if not is_held_out(document, percent)]
    return pack(shard(documents, workers, worker, by), model, seq_len)


class AdamW:
    """AdamW (arXiv 1711.05101) with gradient clipping, on the adapter's own tensors.

    The gradient's norm is summed in float64 tensor by tensor in name order, so it does not depend on threads.
    """

    def __init__(
        self,
        params: LoraParams,
        model: AdaptedModel,
        adapter: dict[str, Array],
        first: dict[str, Array],
        second: dict[str, Array],
    ) -> None:
        self._params = params
        model.set_adapter(adapter)
        self._weights = dict(sorted(model.parameters().items()))
        self._first = {name: _tensor(first[name], model.device) for name in self._weights}
        self._second = {name: _tensor(second[name], model.device) for name in self._weights}

    def zero_gradients(self) -> None:
        for weight in self._weights.values():
            weight.grad = None

    @torch.no_grad()
    def step(self, number: int, lr: float) -> float:
        """Apply step `number` (from 1 in this round); returns the gradient's norm before clipping."""
        params = self._params
        gradients = {n: w.grad if w.grad is not None else torch.zeros_like(w) for n, w in self._weights.items()}
        norm = float(sum(float(g.double().square().sum()) for g in gradients.values()) ** 0.5)
        factor = min(1.0, params.clip / (norm + 1e-6))
        for name, weight in self._weights.items():
            gradient = gradients[name] * factor
            first = self._first[name].mul_(params.beta1).add_(gradient, alpha=1 - params.beta1)
            second = self._second[name].mul_(params.beta2).addcmul_(gradient, gradient, value=1 - params.beta2)
            scale = (second / (1 - params.beta2**number)).sqrt_().add_(params.eps)
            weight.mul_(1 - lr * params.weight_decay)
            weight.addcdiv_(first, scale, value=-lr / (1 - params.beta1**number))
        return norm

    def state(self) -> dict[str, Array]:
        weights = {name: weight.detach() for name, weight in self._weights.items()}
        groups = {"adapter": weights, "first": self._first, "second": self._second}
        tensors: dict[str, Array] = {}
        for prefix, group in groups.items():
            tensors |= put({name: tensor.cpu().numpy() for name, tensor in group.items()}, prefix)
        return tensors


def _tensor(values: Array, device: str) -> Tensor:
    return torch.from_numpy(np.array(values)).to(device)
