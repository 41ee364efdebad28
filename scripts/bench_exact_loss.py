"""What exact arithmetic costs in quality: the demo's job, once in each precision and once in plain float32.

The same text, batches, optimiser, averaging and first adapter; the held-out losses of all results are measured by plain
float32.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench_exact_jobs import demo_job
from bench_exact_setup import Bench, say
from bench_exact_traces import Job, commit, in_turns
from proofyard.protocol.manifest import TaskSpec
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_rounds import start_of_round, whole_adapter
from proofyard.workloads.lora_tensors import initial_adapter, position, put
from proofyard.workloads.params import PRECISIONS
from proofyard.workloads.state import Array, encode_state
from proofyard.workloads.text_data import is_held_out, pack, read_documents
from proofyard.workloads.tokenizer import Tokens
from proofyard.workloads.workload import Inputs

SEQUENCES, TOKENS = 16, 128
"""Held-out text: as much as the demo measures its loss on."""

Train = Callable[[Job, TaskSpec, Inputs], bytes]
Adapter = Mapping[str, Array]


async def measure(bench: Bench) -> dict[str, Any]:
    """The key `loss_ratio`, and the losses of all precisions."""
    every = jobs(bench)
    works = [exact_result(bench, job) for job in every]
    found = await in_turns([*works, plain_result(every[0])])
    results = dict(zip([*PRECISIONS, "float32"], found, strict=True))
    losses = await asyncio.to_thread(held_out_losses, every[0], results)
    plain = losses["float32"]
    say(f"loss: {losses}")
    return {
        "loss_ratio": losses["exact"] / plain,
        "loss_details": {
            "held_out": losses,
            "ratios": {name: losses[name] / plain for name in PRECISIONS},
            "sequences": SEQUENCES,
            "tokens": TOKENS,
        },
    }


def jobs(bench: Bench) -> list[Job]:
    """The demo's job in each precision; a quick run does one round of one segment."""
    size = {"rounds": 1, "workers": 2, "segments": 1} if bench.quick else {}
    return [demo_job(bench, precision=precision, aggregation="fedit", **size) for precision in PRECISIONS]


async def exact_result(bench: Bench, job: Job) -> Adapter:
    """The adapter that the job gives."""
    async with Executor(bench.folder / f"loss-{job.manifest.precision}") as executor:
        traces = await commit(executor, job)
    say(f"loss: trained in {job.manifest.precision}")
    return averaged(job, {trace.task.index: trace.result.read_bytes() for trace in traces})


async def plain_result(job: Job) -> Adapter:
    """The same in float32: other training, and the workload's own averaging of what it gives."""
    found = await asyncio.to_thread(run_job, job, plain_training(job))
    say("loss: trained in float32")
    return found


def run_job(job: Job, train: Train) -> Adapter:
    """Every task in order; `train` gives its result."""
    results: dict[int, bytes] = {}
    for task in job.workload.graph(job.manifest):
        inputs = Inputs(job.inputs.model, job.inputs.data, tuple(results[number] for number in task.deps))
        results[task.index] = train(job, task, inputs)
    return averaged(job, results)


def averaged(job: Job, results: Mapping[int, bytes]) -> Adapter:
    """The workload's own average of the last round's results."""
    last = [results[task] for task in job.workload.finals(job.manifest)]
    params = read_params(job.manifest)
    return whole_adapter(params, job.manifest.seed, start_of_round(params, job.manifest.seed, last, params.rounds))


def plain_training(job: Job) -> Train:
    from bench_exact_plain import PlainTrainer
    from proofyard.workloads.lora_runner import shard_rows
    from proofyard.workloads.text_data import batch_rows

    params = read_params(job.manifest)
    assert job.inputs.model and job.inputs.data
    model, data = job.inputs.model, job.inputs.data
    trainer = PlainTrainer(model, params)

    def train(job: Job, task: TaskSpec, inputs: Inputs) -> bytes:
        number, worker = position(params, task)
        rows = shard_rows(model, data, params, worker)
        trainer.begin_round()
        start = start_of_round(params, job.manifest.seed, inputs.results, number)
        trainer.load(dict(start.adapter))
        for step in range(number * params.task_steps, (number + 1) * params.task_steps):
            which = batch_rows(len(rows), params.batch, step, "lora batches", job.manifest.seed, worker)
            trainer.step(np.concatenate(rows.take(which)), params.lr_at(step))
        return encode_state(put(trainer.adapter(), "adapter") | ({} if worker else start.outer))

    return train


def held_out_losses(job: Job, results: Mapping[str, Adapter]) -> dict[str, float]:
    """The loss under each adapter, and under the first one, by plain float32."""
    from bench_exact_plain import PlainTrainer

    params: LoraParams = read_params(job.manifest)
    assert job.inputs.model
    trainer, rows = PlainTrainer(job.inputs.model, params), held_out_rows(job, params)
    adapters = {**results, "before": initial_adapter(params, job.manifest.seed)}
    losses = {}
    for name, adapter in adapters.items():
        trainer.load(dict(adapter))
        losses[name] = trainer.held_out_loss(rows)
    return losses


def held_out_rows(job: Job, params: LoraParams) -> Tokens:
    assert job.inputs.model and job.inputs.data
    documents = [d for d in read_documents(job.inputs.data) if is_held_out(d, params.holdout_percent)]
    return pack(documents, job.inputs.model, TOKENS)[:SEQUENCES]
