"""Training segments: AdamW on plain tensors, so that the state is complete and nothing hides in an optimizer object."""

import time

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
from proofyard.workloads.text_data import batch_rows, is_held_out, pack, read_documents, shard
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources


class TrainRunner:
    """The segments of one training task: this worker's shard, this round's steps."""

    def __init__(
        self, manifest: Manifest, params: LoraParams, task: TaskSpec, inputs: Inputs, resources: Resources
    ) -> None:
        if inputs.model is None or inputs.data is None:
            raise InputRefused("the task", "was given no model directory or no data file")
        self._params = params
        self._seed = manifest.seed
        self._round, self._worker = position(params, task)
        self._micro_batch = min(params.batch, resources.micro_batch or params.batch)
        documents = [d for d in read_documents(inputs.data) if not is_held_out(d, params.holdout_percent)]
        mine = shard(documents, params.workers, self._worker, params.shard_by)
        self._rows = pack(mine, inputs.model, params.seq_len)
        self._model = adapted_model(
            inputs.model, params, manifest.execution_class, resources.device, resources.memory_bytes
        )

    def run(self, index: int, before: bytes, progress: OnProgress, *, steps: int | None = None) -> bytes:
        """See `SegmentRunner`. `steps` other than the manifest's are for tests of what audits catch."""
        params = self._params
        steps = params.segment_steps if steps is None else steps
        state = decode_state(before, schema=train_schema(params))
        done = int(state[STEP])
        if done != index * params.segment_steps:
            raise StateRefused(f"is {done} at segment {index}, expected {index * params.segment_steps}", STEP)
        optimizer = AdamW(params, self._model, take(state, "adapter"), take(state, "first"), take(state, "second"))
        try:
            for step in range(done, done + steps):
                started = time.perf_counter()
                loss = self._step(optimizer, index, step)
                progress(
                    Progress(
                        segment=index,
                        step=step + 1,
                        steps=params.task_steps,
                        loss=loss,
                        tokens_per_s=params.batch * params.seq_len / (time.perf_counter() - started),
                        rss_bytes=psutil.Process().memory_info().rss,
                    )
                )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(f"segment {index} does not fit in memory: {error}") from None
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise OutOfMemory(f"segment {index} does not fit in memory: {error}") from None
            raise
        finished: dict[str, Array] = {STEP: np.array(done + steps, np.int64)}
        return encode_state(finished | optimizer.state())

    def _step(self, optimizer: "AdamW", index: int, step: int) -> float:
        params = self._params
        overall = self._round * params.task_steps + step
        picked = batch_rows(len(self._rows), params.batch, overall, "lora batches", self._seed, self._worker)
        tokens = params.batch * params.seq_len
        optimizer.zero_gradients()
        total = 0.0
        for start in range(0, params.batch, self._micro_batch):
            rows = self._rows[picked[start : start + self._micro_batch]]
            total += self._model.loss_sum(rows, backward_scale=1 / tokens)
        norm = optimizer.step(step + 1, params.lr_at(overall))
        if not (np.isfinite(total) and np.isfinite(norm)):
            raise SegmentFailed(index, f"the loss of step {step + 1} is {total / tokens}, its gradient's norm {norm}")
        return total / tokens


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
