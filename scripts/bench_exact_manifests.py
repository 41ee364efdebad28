"""Random legal manifests: whatever a job asks for, every backend gives the same states or the same defined failure."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_exact_jobs import ALL_LINEAR
from bench_exact_setup import Bench, say, write_lines
from bench_exact_traces import digest, in_turns
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import TRAIN, WORKLOAD
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.params import PRECISIONS
from proofyard.workloads.workload import Inputs, Resources

FIRST = "native"
OTHERS = {
    "native-sse": Resources(backend="native-sse", micro_batch=1),
    "int8": Resources(backend="int8"),
    "float32": Resources(backend="float32", micro_batch=2),
    "reference": Resources(backend="reference"),
}
PATIENT = "reference"
MOST_TOKENS = 256
"""Tokens of a task that the reference, which is slow, is given; a larger one goes to the next backend."""

CHOICES: dict[str, Sequence[Any]] = {
    "rank": (1, 1, 2, 4, 8, 16, 64),
    "alpha": (1e-6, 1.0, 8.0, 64.0, 1e6),
    "lr": (0.0, 1e-5, 1e-3, 1e-2, 0.1, 1.0, 1e3, 1e6),
    "eps": (1e-30, 1e-12, 1e-8, 1e-5, 1.0),
    "beta1": (0.0, 0.5, 0.9, 0.9, 0.999),
    "beta2": (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999),
    "clip": (1e-30, 1e-6, 0.1, 1.0, 1.0, 1e6),
    "weight_decay": (0.0, 0.0, 0.01, 0.5, 0.99),
    "warmup_steps": (0, 0, 3, 100),
    "lr_end": (1.0, 1.0, 0.1, 0.0),
    "segments": (1, 1, 2, 3),
    "batch": (1, 2, 3, 4),
    "seq_len": (8, 8, 13, 16, 32),
    "rounds": (1, 2),
    "workers": (1, 2, 3),
    "shard_by": ("label", "document"),
    "holdout_percent": (1, 2, 20, 50),
}
STEPS, STEPS_WEIGHTS = (1, 2, 4, 16, 64), (40, 28, 20, 8, 4)
TEXT_WEIGHTS = (8, 4, 4, 4, 1)
MODULES = (("q_proj", "v_proj"), ("down_proj",), ("q_proj", "k_proj", "gate_proj"), ALL_LINEAR)


@dataclass(frozen=True)
class Drawn:
    """A job and the task of it that is executed."""

    manifest: Manifest
    task: TaskSpec
    inputs: Inputs

    @property
    def tokens(self) -> int:
        params = read_params(self.manifest)
        return params.task_steps * params.batch * params.seq_len


@dataclass
class Run:
    """What the backends made of the drawn jobs: by job's number and backend, digests of the states and how it ended."""

    endings: dict[tuple[int, str], tuple[str, ...]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)


async def measure(bench: Bench) -> dict[str, Any]:
    """The keys `manifests` and `manifests_different`, and what the manifests were like."""
    drawn = draw_all(bench, bench.size(1_000, 24))
    plan = {FIRST: list(range(len(drawn)))} | assign(drawn)
    run = Run()
    await in_turns(execute(bench, name, [(n, drawn[n]) for n in numbers], run) for name, numbers in plan.items())
    return summarise(drawn, plan, run)


def draw_all(bench: Bench, count: int) -> list[Drawn]:
    rng, texts = bench.random("manifests"), corpora(bench)
    return [draw(rng, bench.tiny, texts) for _ in range(count)]


def draw(rng: random.Random, model: Path, texts: Sequence[Path]) -> Drawn:
    """A manifest that `Workload.check` accepts, and one of its first round's tasks."""
    params = {name: rng.choice(values) for name, values in CHOICES.items()}
    params["segment_steps"] = rng.choices(STEPS, STEPS_WEIGHTS)[0]
    params["modules"] = linear_modules(model, list(rng.choice(MODULES)), rng.choice((None, [0], [-1])))
    manifest = Manifest(
        workload=WORKLOAD.name,
        params=params,
        model=Cid("model"),
        data=Cid("data"),
        seed=rng.randrange(1 << 63),
        precision=rng.choice(PRECISIONS),
    )
    WORKLOAD.check(manifest)
    tasks = [task for task in WORKLOAD.graph(manifest) if task.kind == TRAIN and not task.deps]
    return Drawn(manifest, rng.choice(tasks), Inputs(model, rng.choices(texts, TEXT_WEIGHTS)[0]))


def corpora(bench: Bench) -> list[Path]:
    """Texts of all kinds: a pattern, equal rows, many empty documents, one long one, and one that is too short."""
    folder = bench.subfolder("manifest-texts")
    labels = [f"label-{n}" for n in range(4)]
    equal = [{"text": "the same again. " * 40, "shard": label} for label in labels for _ in range(6)]
    empty = [{"text": "" if n % 3 else f"not empty {n} " * 9, "shard": label} for label in labels for n in range(30)]
    long = [{"text": f"chapter {label}: " + " ".join(map(str, range(900))), "shard": label} for label in labels]
    short = [{"text": "ab", "shard": label} for label in labels]
    return [
        bench.patterns,
        write_lines(folder / "equal.jsonl", equal),
        write_lines(folder / "empty.jsonl", empty),
        write_lines(folder / "long.jsonl", long),
        write_lines(folder / "short.jsonl", short),
    ]


def assign(drawn: Sequence[Drawn]) -> dict[str, list[int]]:
    """Backend to the numbers of the jobs that it executes beside the first backend: two backends a job, in rotation."""
    plan: dict[str, list[int]] = {name: [] for name in OTHERS}
    turns = itertools.cycle(itertools.combinations(OTHERS, 2))
    for number, job in enumerate(drawn):
        pair = next(turns)
        while PATIENT in pair and job.tokens > MOST_TOKENS:
            pair = next(turns)
        for name in pair:
            plan[name].append(number)
    return plan


async def execute(bench: Bench, name: str, jobs: Sequence[tuple[int, Drawn]], run: Run) -> None:
    """Execute the jobs' tasks on one backend."""
    resources = OTHERS.get(name, Resources(backend=name))
    started = time.monotonic()
    async with Executor(bench.folder / "manifests" / name, resources=resources) as executor:
        for number, job in jobs:
            run.endings[number, name] = await ending(executor, job)
            if not len(run.endings) % 500:
                say(f"manifests: {len(run.endings)} executions")
    run.seconds[name] = round(time.monotonic() - started)
    say(f"manifests: {name}: {len(jobs)} executed in {run.seconds[name]} s")


async def ending(executor: Executor, job: Drawn) -> tuple[str, ...]:
    """The digests of the states that were reached, and "done" or the kind of the defined failure."""
    states: dict[int, str] = {}

    def note(number: int, path: Path) -> None:
        states[number] = digest(path.read_bytes())

    try:
        await executor.run_task(job.manifest, job.task, job.inputs, on_state=note)
        end = "done"
    except WorkloadError as error:
        end = type(error).__name__ if error.defined else f"{type(error).__name__} (not defined): {error}"
    await asyncio.to_thread(executor.forget, job.manifest, job.task, job.inputs)
    return (*(states[number] for number in sorted(states)), end)


def summarise(drawn: Sequence[Drawn], plan: dict[str, list[int]], run: Run) -> dict[str, Any]:
    different = []
    for name, numbers in plan.items():
        for number in numbers:
            if run.endings[number, name] != run.endings[number, FIRST]:
                params = {key: value for key, value in drawn[number].manifest.params.items() if key != "modules"}
                ends = {backend: run.endings[number, backend][-1] for backend in (FIRST, name)}
                different.append({"number": number, "ends": ends, "params": params})
    undefined = sorted({end[-1] for end in run.endings.values() if "not defined" in end[-1]})
    endings = Counter(run.endings[number, FIRST][-1] for number in plan[FIRST])
    found = [read_params(job.manifest) for job in drawn]
    return {
        "manifests": len(drawn),
        "manifests_different": len({case["number"] for case in different}) + len(undefined),
        "manifests_details": {
            "executions": {name: len(numbers) for name, numbers in plan.items()},
            "endings": dict(endings.most_common()),
            "undefined_failures": undefined,
            "different": different[:20],
            "precisions": dict(Counter(job.manifest.precision for job in drawn)),
            "texts": dict(Counter(job.inputs.data.stem for job in drawn if job.inputs.data)),
            "of_these": {words: sum(map(holds, found)) for words, holds in EXTREMES.items()},
            "seconds": dict(run.seconds),
        },
    }


EXTREMES = {
    "eps 1e-30": lambda p: p.eps == 1e-30,
    "beta2 0": lambda p: p.beta2 == 0,
    "beta1 0": lambda p: p.beta1 == 0,
    "learning rate 0": lambda p: p.lr == 0,
    "learning rate 1,000 or more": lambda p: p.lr >= 1e3,
    "alpha 1,000,000": lambda p: p.alpha == 1e6,
    "clip 1e-30": lambda p: p.clip == 1e-30,
    "clip 1,000,000": lambda p: p.clip == 1e6,
    "rank 1": lambda p: p.rank == 1,
    "rank 64": lambda p: p.rank == 64,
    "64 steps a segment": lambda p: p.segment_steps == 64,
}
