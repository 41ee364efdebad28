"""The federated run that `bench_pipeline.py` compares with: the same training code in as many processes, nothing else.

No chain, no states between segments, no commitments, no audits: each worker is told what its round starts from, trains
all its steps, and hands its result to the loop, as its node's executor would compute it.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import psutil

from bench_pipeline_timeline import Span
from proofyard.artifacts import BlockStore
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads.warmup import environment
from proofyard.workloads.workload import Inputs, Progress, Resources, load_workload, task_graph


@dataclass(frozen=True)
class PlainRun:
    """`spans` of training steps by worker; Unix seconds. `cpu_s` of all workers."""

    began: float
    ended: float
    spans: tuple[Span, ...]
    cpu_s: float
    package: Cid


def in_one_segment(manifest: Manifest) -> Manifest:
    """The same job whose tasks are not cut into segments."""
    params = dict(manifest.params)
    params |= {"segments": 1, "segment_steps": params["segments"] * params["segment_steps"]}
    return msgspec.structs.replace(manifest, params=params)


def run_plain(manifest: Manifest, model: Path, data: Path, workers: int) -> PlainRun:
    """From the moment in which all processes are up and have chosen their arithmetic, as those of nodes have, until the
    last round's results are one."""
    whole = in_one_segment(manifest)
    workload = load_workload(whole.workload)
    graph = task_graph(workload, whole)
    context = get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    kept = dict(os.environ)
    os.environ.update({name: value for name, value in environment(1).items() if name not in kept})
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, whole, model, data), daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            pipe.recv()
        before = sum(_cpu(process.pid) for process in processes)
        began, spans = time.time(), list[Span]()
        results: dict[TaskIndex, bytes] = {}
        for first in range(0, len(graph), workers):
            tasks = graph[first : first + workers]
            for pipe, task in zip(pipes, tasks, strict=True):
                pipe.send((task.index, tuple(results[dep] for dep in task.deps)))
            for number, (pipe, task) in enumerate(zip(pipes, tasks, strict=True), 1):
                results[task.index], steps = pipe.recv()
                spans += [Span(f"node-{number}", "train", task.index, start, end) for start, end in steps]
        with TemporaryDirectory() as folder:
            made = workload.package(whole, results.__getitem__, Path(folder) / "result")
            package = BlockStore(Path(folder) / "blocks").put_directory(made)
        ended = time.time()
        cpu_s = sum(_cpu(process.pid) for process in processes) - before
    finally:
        os.environ.clear()
        os.environ.update(kept)
        for process in processes:
            process.kill()
            process.join()
    return PlainRun(began, ended, tuple(spans), cpu_s, package)


def work(pipe: Connection, manifest: Manifest, model: Path, data: Path) -> None:
    """One worker: tasks in, results and the times of their steps out, until it is killed."""
    from proofyard.workloads.exact import choose_backend

    resources = Resources(threads=1)
    choose_backend(resources)
    workload = load_workload(manifest.workload)
    graph = task_graph(workload, manifest)
    pipe.send("ready")
    while True:
        index, results = pipe.recv()
        task, inputs = graph[index], Inputs(model, data, results)
        steps: list[tuple[float, float]] = []

        def note(progress: Progress, steps: list[Any] = steps) -> None:
            steps.append((time.time() - progress.seconds, time.time()))

        state = workload.initial_state(manifest, task, inputs)
        states: Sequence[bytes] = (state, workload.runner(manifest, task, inputs, resources).run(0, state, note))
        pipe.send((workload.result(manifest, task, states.__getitem__), steps))


def _cpu(pid: int | None) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
