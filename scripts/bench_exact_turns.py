"""One side of a race: exact execution or plain float32, doing the same piece of work whenever it is told to.

`python bench_exact_turns.py ORDER`, ORDER being JSON: `side` ("exact" or "plain"), `work` ("train", "embed" or
"evaluate"), `threads`, and what the work needs. Prints a line of JSON when it is ready; then, for each line on stdin,
does the work once and prints its seconds, those of all its threads together, and the process's peak of memory. The
exact side loads no torch unless its backend is torch's, as on a node; the threads of torch are OMP_NUM_THREADS.
"""

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.model_files import end_token
from proofyard.workloads.tokenizer import Tokens
from proofyard.workloads.workload import Inputs, Resources, load_workload

Work = Callable[[], Any]


def main() -> None:
    order = json.loads(sys.argv[1])
    work = WORKS[order["side"], order["work"]](order)
    work()
    _print({"ready": True})
    for _ in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        found = work()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _print({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak, "found": found})


def _print(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)


def exact_training(order: dict[str, Any]) -> Work:
    """A segment of a task from its state to the next one, encoded."""
    manifest, inputs = _manifest(order), _inputs(order)
    task = WORKLOAD.graph(manifest)[0]
    runner = WORKLOAD.runner(manifest, task, inputs, Resources(threads=order["threads"], device="cpu"))
    state, index, losses = WORKLOAD.initial_state(manifest, task, inputs), 0, [0.0]

    def segment() -> float:
        nonlocal state, index
        state = runner.run(index, state, lambda progress: losses.append(progress.loss or 0.0))
        index += 1
        return losses[-1]

    return segment


def plain_training(order: dict[str, Any]) -> Work:
    """As many steps as a segment has."""
    from bench_exact_plain import PlainTrainer
    from proofyard.workloads.lora_runner import shard_rows
    from proofyard.workloads.lora_tensors import initial_adapter
    from proofyard.workloads.text_data import batch_rows

    manifest, inputs = _manifest(order), _inputs(order)
    params = msgspec.convert(manifest.params, LoraParams)
    assert inputs.model and inputs.data
    rows = shard_rows(inputs.model, inputs.data, params, 0)
    trainer = PlainTrainer(inputs.model, params)
    trainer.load(initial_adapter(params, manifest.seed))
    step, loss = 0, 0.0

    def segment() -> float:
        nonlocal step, loss
        for _ in range(params.segment_steps):
            which = batch_rows(len(rows), params.batch, step, "lora batches", manifest.seed, 0)
            batch: Tokens = np.concatenate(rows.take(which))
            loss = trainer.step(batch, params.lr_at(step))
            step += 1
        return loss

    return segment


def exact_rows(order: dict[str, Any]) -> Work:
    """One segment that holds all lines of the file."""
    manifest, inputs = _manifest(order), _inputs(order)
    workload = load_workload(manifest.workload)
    task = workload.graph(manifest)[0]
    runner = workload.runner(manifest, task, inputs, Resources(threads=order["threads"], device="cpu"))
    state = workload.initial_state(manifest, task, inputs)
    return lambda: hashlib.sha256(runner.run(0, state, lambda _: None)).hexdigest()


def plain_embedding(order: dict[str, Any]) -> Work:
    from bench_exact_plain import PlainEncoder

    encoder = PlainEncoder(Path(order["model"]), order["manifest"]["params"]["max_tokens"])
    return lambda: float(encoder.embed(_texts(order)).sum())


def plain_evaluation(order: dict[str, Any]) -> Work:
    from bench_exact_plain import PlainScorer

    model = Path(order["model"])
    scorer = PlainScorer(model, order["manifest"]["params"]["max_tokens"], end_token(model))
    return lambda: sum(scorer.score(_texts(order)))


def _texts(order: dict[str, Any]) -> list[str]:
    lines = Path(order["data"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def _manifest(order: dict[str, Any]) -> Manifest:
    return msgspec.convert(order["manifest"], Manifest)


def _inputs(order: dict[str, Any]) -> Inputs:
    return Inputs(Path(order["model"]), Path(order["data"]))


WORKS: dict[tuple[str, str], Callable[[dict[str, Any]], Work]] = {
    ("exact", "train"): exact_training,
    ("plain", "train"): plain_training,
    ("exact", "embed"): exact_rows,
    ("plain", "embed"): plain_embedding,
    ("exact", "evaluate"): exact_rows,
    ("plain", "evaluate"): plain_evaluation,
}


if __name__ == "__main__":
    main()
